//! The deeds of the console's commands, on the control runtime.
//!
//! Answers go out as [`Item`]s while the deed goes on: a MOVE tells its progress line by line. Who
//! asked may leave at any time; a move goes on without a listener, a PAUSE does not.

use std::time::Duration;

use tokio::sync::mpsc;

use super::command::{Command, SYNTAX, Show};
use super::reply::{Item, Value};
use super::show::{self, ShowError, milliseconds};
use super::{COMPATIBLE, ConsoleContext, columns, config, halt};
use crate::catalog::ddl::DdlError;
use crate::catalog::{CatalogError, nodes, raise_epoch};
use crate::config::Config;
use crate::moves::{MoveError, Progress, State};
use crate::topology::MoveId;
use crate::wire::backend::Report;

/// A setting of the cluster, kept in the catalog.
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub changeable: bool,
    accepts: fn(&str) -> bool,
    values: &'static str,
}

pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "shard_count",
        default: "16",
        changeable: true,
        accepts: |v| v.parse::<u32>().is_ok_and(|n| (1..=4096).contains(&n)),
        values: "It is a number from 1 to 4096, for groups created from now on.",
    },
    Setting {
        name: "sequence_stride",
        default: "32",
        // The sequences of tables that are there keep the stride they were made with.
        changeable: false,
        accepts: |_| false,
        values: "It is fixed once sequences are made.",
    },
];

/// At the most this long between two looks at a move.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub type Out = mpsc::Sender<Item>;

/// Carries out a command and sends its whole answer, the end included.
pub async fn run(ctx: ConsoleContext, command: Command, out: Out) {
    let end = match carry_out(&ctx, command, &out).await {
        Ok(tag) => Item::Tag(tag),
        Err(report) => Item::Error(report),
    };
    // Nobody is listening any more: then nobody misses it.
    let _ = out.send(end).await;
}

async fn carry_out(ctx: &ConsoleContext, command: Command, out: &Out) -> Result<String, Report> {
    match command {
        Command::Show(show) => {
            if show == Show::Help {
                let _ = out.send(Item::Notice(help())).await;
                return Ok("SHOW".into());
            }
            let rows = show::rows(ctx, show).await?;
            table(out, &Command::Show(show), rows).await;
            Ok("SHOW".into())
        }
        Command::ShowParameter(_, value) => {
            table(out, &command, vec![vec![value.into()]]).await;
            Ok("SHOW".into())
        }
        Command::SelectOne => {
            table(out, &command, vec![vec![1.into()]]).await;
            Ok("SELECT 1".into())
        }
        Command::SelectVersion => {
            let ours = env!("CARGO_PKG_VERSION");
            let version = format!("PgBouncer {COMPATIBLE} (pgshunt {ours})");
            table(out, &command, vec![vec![version.into()]]).await;
            Ok("SELECT 1".into())
        }
        Command::Nothing(tag) => Ok(tag.into()),
        Command::SetIgnored => Ok("SET".into()),
        Command::Set { name, value } => set(ctx, &name, &value).await,
        Command::AddNode { name, host, port } => {
            let _permit = ctx.store.permit().await?;
            let (id, advice) = nodes::add(&ctx.store, &name, &host, port).await?;
            for a in advice {
                tell(out, format!("advice: {} {}", a.what, a.hint)).await;
            }
            tell(out, format!("node \"{name}\" is node {id}; MOVE SHARD brings shards to it"))
                .await;
            Ok("ADD NODE".into())
        }
        Command::MoveShard { shard, to, wait } => {
            let target = ctx.store.routes().load().node_by_name(&to).map(|n| n.id);
            let target = match target {
                Some(id) => id,
                None => return Err(unknown_node(ctx, &to)),
            };
            let id = ctx.mover.start(shard, target).await?;
            follow(ctx, id, wait, out).await?;
            Ok("MOVE".into())
        }
        Command::RollbackMove { id, wait } => {
            let id = ctx.mover.rollback(id).await?;
            follow(ctx, id, wait, out).await?;
            Ok("ROLLBACK MOVE".into())
        }
        Command::CancelMove(id) => {
            let id = ctx.mover.cancel(id).await?;
            tell(out, format!("move {id} is being undone")).await;
            Ok("CANCEL MOVE".into())
        }
        Command::FinishMove(id) => {
            let id = ctx.mover.finish(id).await?;
            tell(out, format!("move {id} is being cleaned up; it cannot be rolled back now")).await;
            Ok("FINISH MOVE".into())
        }
        Command::Pause(target) => halt::pause(ctx, target, out).await,
        Command::Resume(target) => halt::resume(ctx, &target).await,
        Command::Disable(name) => halt::disable(ctx, &name, true).await,
        Command::Enable(name) => halt::disable(ctx, &name, false).await,
        Command::Reconnect(name) => halt::reconnect(ctx, name.as_deref()).await,
        Command::WaitClose(name) => halt::wait_close(ctx, name.as_deref(), out).await,
        Command::Kill(name) => halt::kill(ctx, name.as_deref(), out).await,
        Command::KillClient(id) => halt::kill_client(ctx, id).await,
        Command::Shutdown(how) => {
            ctx.process()?.stop(how);
            Ok("SHUTDOWN".into())
        }
        Command::Reload => {
            let changed = ctx
                .process()?
                .reload()
                .map_err(|why| Report::error("F0000", why).hint("Nothing has been changed."))?;
            for line in changed {
                tell(out, line).await;
            }
            ctx.store.reload().await?;
            Ok("RELOAD".into())
        }
    }
}

async fn table(out: &Out, command: &Command, rows: Vec<Vec<Value>>) {
    // A listener that left ends the sending, not the command.
    if out.send(Item::Columns(columns::of_command(command))).await.is_err() {
        return;
    }
    for row in rows {
        if out.send(Item::Row(row)).await.is_err() {
            return;
        }
    }
}

pub async fn tell(out: &Out, message: String) {
    let _ = out.send(Item::notice(message)).await;
}

fn help() -> Report {
    let mut detail = String::new();
    for show in Show::ALL {
        detail += &format!("\n  SHOW {:<14}  {}", show.word(), show.help());
    }
    for syntax in SYNTAX {
        detail += &format!("\n  {syntax}");
    }
    super::reply::notice("Console usage").detail(detail)
}

async fn set(ctx: &ConsoleContext, name: &str, value: &str) -> Result<String, Report> {
    let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
        return set_in_process(ctx, name, value);
    };
    if !setting.changeable {
        return Err(Report::error("55P02", format!("setting \"{name}\" cannot be changed"))
            .hint(setting.values));
    }
    if !(setting.accepts)(value) {
        return Err(
            Report::error("22023", format!("{name} cannot be \"{value}\"")).hint(setting.values)
        );
    }
    let _permit = ctx.store.permit().await?;
    let client = ctx.store.home_client().await?;
    let mut client = client.lock().await;
    let write = async {
        let tx = client.transaction().await?;
        tx.execute(
            "INSERT INTO pgshunt.settings (name, value) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            &[&name, &value],
        )
        .await?;
        raise_epoch(&tx).await?;
        tx.commit().await
    };
    write.await.map_err(CatalogError::from)?;
    Ok(format!("SET {name}={value}"))
}

/// A key of the configuration, changed until the next start or RELOAD.
fn set_in_process(ctx: &ConsoleContext, name: &str, value: &str) -> Result<String, Report> {
    let mut tried = Config::clone(&ctx.config.load());
    match config::set(&mut tried, name, value) {
        Ok(()) => {}
        Err(config::SetError::Unknown) => {
            let settings = SETTINGS.iter().map(|s| s.name).chain(config::names());
            let nearest = settings
                .map(|known| (strsim::damerau_levenshtein(known, name), known))
                .min()
                .filter(|(distance, known)| distance * 2 < known.len());
            return Err(Report::error("42704", format!("unrecognized setting \"{name}\"")).hint(
                match nearest {
                    Some((_, known)) => format!("Did you mean {known}?"),
                    None => "SHOW CONFIG lists what there is, and what can be changed.".to_owned(),
                },
            ));
        }
        Err(config::SetError::Fixed) => {
            return Err(Report::error(
                "55P02",
                format!("setting \"{name}\" cannot be changed now"),
            )
            .hint("Change it in the configuration file and restart pgshunt."));
        }
        Err(config::SetError::Value(hint)) => {
            return Err(Report::error("22023", format!("{name} cannot be \"{value}\"")).hint(hint));
        }
    }
    let change = |config: &mut Config| {
        // It has been tried.
        let _ = config::set(config, name, value);
    };
    ctx.process()?.change(&change).map_err(|why| Report::error("22023", why))?;
    Ok(format!("SET {name}={value}"))
}

/// Tells how a move goes until the target serves the shard, or it is known that it will not.
async fn follow(ctx: &ConsoleContext, id: MoveId, wait: bool, out: &Out) -> Result<(), Report> {
    let routes = ctx.store.routes().load();
    let Some(mut watched) = ctx.mover.subscribe(id) else {
        tell(out, format!("move {id} is under way; SHOW MOVES tells how it goes")).await;
        return Ok(());
    };
    if !wait {
        tell(out, format!("move {id} has begun; SHOW MOVES tells how it goes")).await;
        return Ok(());
    }
    let (mut last, mut told) = (String::new(), 0);
    loop {
        let now = watched.borrow_and_update().clone();
        for notice in now.notices.iter().skip(told) {
            tell(out, format!("move {id}: {notice}")).await;
        }
        told = now.notices.len().max(told);
        match outcome(&now) {
            Some(true) => {
                let to = routes.node(now.target).map_or_else(String::new, |n| n.name.clone());
                let held = held(&now);
                tell(out, format!("move {id}: shard {} is served by {to}{held}", now.shard)).await;
                return Ok(());
            }
            Some(false) => {
                let why = now.error.unwrap_or_else(|| "it was cancelled".into());
                return Err(Report::error("55000", format!("move {id} failed: {why}"))
                    .hint("The shard is served where it was. SHOW MOVES has the details."));
            }
            None => {}
        }
        let line = line(&now);
        if line != last {
            if out.send(Item::notice(format!("move {id}: {line}"))).await.is_err() {
                return Ok(());
            }
            last = line;
        }
        tokio::select! {
            changed = watched.changed() => {
                if changed.is_err() && outcome(&watched.borrow()).is_none() {
                    return Err(Report::error("58000", format!("move {id} is no longer carried out"))
                        .hint("It is resumed when pgshunt starts again. SHOW MOVES has its state."));
                }
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

/// How long clients were held: in all, and at most at once if that is not the same.
fn held(p: &Progress) -> String {
    match (p.held, p.longest_hold) {
        (Some(all), Some(longest)) if longest < all => format!(
            ", held {} ms in all, {} ms at most at once",
            milliseconds(all),
            milliseconds(longest)
        ),
        (Some(all), _) => format!(", held {} ms", milliseconds(all)),
        (None, _) => String::new(),
    }
}

/// Whether the move has switched for good, or failed; `None`: neither yet.
fn outcome(p: &Progress) -> Option<bool> {
    match p.state {
        State::Soaking | State::Cleaning | State::Done => Some(true),
        State::Failed => Some(false),
        State::Planned | State::Preparing | State::Copying | State::CatchingUp => None,
        State::Ready | State::Cutover | State::Switched | State::Undoing => None,
    }
}

fn line(p: &Progress) -> String {
    let mut line = p.state.name().to_owned();
    if p.state == State::Copying && p.bytes_total > 0 {
        let percent = (p.bytes_done as f64 / p.bytes_total as f64 * 100.0).min(100.0);
        line += &format!(", {percent:.0} % of {} kB", p.bytes_total / 1024);
        if let Some(eta) = p.eta {
            line += &format!(", {} s left", eta.as_secs());
        }
    }
    if let (State::CatchingUp | State::Ready, Some(lag)) = (p.state, p.lag_bytes) {
        line += &format!(", {} kB behind", lag.div_ceil(1024));
    }
    if p.attempts > 1 {
        line += &format!(", attempt {}", p.attempts);
    }
    if let Some(blocker) = &p.blocker {
        line += &format!(", blocked by {blocker}");
    }
    line
}

pub fn unknown_node(ctx: &ConsoleContext, name: &str) -> Report {
    let routes = ctx.store.routes().load();
    let names: Vec<&str> = routes.nodes().map(|n| n.name.as_str()).collect();
    Report::error("42704", format!("node \"{name}\" does not exist"))
        .hint(format!("There are {}.", names.join(", ")))
}

impl From<MoveError> for Report {
    fn from(e: MoveError) -> Self {
        let report = Self::error(e.sqlstate(), e.to_string());
        match e.hint() {
            Some(hint) => report.hint(hint),
            None => report,
        }
    }
}

impl From<CatalogError> for Report {
    fn from(e: CatalogError) -> Self {
        DdlError::from(e).into()
    }
}

impl From<ShowError> for Report {
    fn from(e: ShowError) -> Self {
        match e {
            ShowError::Catalog(e) => e.into(),
            ShowError::Moves(e) => e.into(),
            ShowError::Stopped => Self::error("57P01", "pgshunt is shutting down"),
        }
    }
}
