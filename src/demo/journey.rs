//! The console's side of the demo: add a node, send a shard there, call it back, and watch.

#![expect(clippy::print_stdout, reason = "the demo is there to be read")]

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::scene::{self, connect, execute};
use super::{CONSOLE, DemoError};
use crate::local::LocalNode;

/// How long a move of the demo's few megabytes may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A line of SHOW MOVES, by column name.
type Line = BTreeMap<String, String>;

/// What became of one move.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub move_id: i64,
    pub took: Duration,
    /// How long the cutover held the shard's traffic, as SHOW MOVES has it.
    pub held: String,
}

pub struct Console {
    port: u16,
    looks: Client,
}

impl Console {
    pub async fn open(port: u16) -> Result<Self, DemoError> {
        Ok(Self { port, looks: connect(&scene::address(port, CONSOLE)).await? })
    }

    /// On a connection of its own: a command may have us wait, and we may not want to.
    pub async fn execute(&self, sql: &str) -> Result<(), DemoError> {
        let asks = connect(&scene::address(self.port, CONSOLE)).await?;
        execute(&asks, sql).await
    }

    pub async fn add_node(&self, node: &LocalNode) -> Result<(), DemoError> {
        let sql = format!("ADD NODE {} '127.0.0.1:{}'", node.name(), node.port());
        self.execute(&sql).await
    }

    /// Sends `command`, which begins a move, and shows its progress until the new node serves.
    pub async fn watch(&self, title: &str, command: &str) -> Result<Arrived, DemoError> {
        let earlier = self.moves().await?.iter().filter_map(id).max().unwrap_or(0);
        let start = Instant::now();
        let asked = self.execute(command);
        tokio::pin!(asked);
        let mut answered = false;
        let mut show = Show::new(title);
        loop {
            if answered {
                tokio::time::sleep(LOOK_AGAIN).await;
            } else {
                match tokio::time::timeout(LOOK_AGAIN, &mut asked).await {
                    Ok(Ok(())) => answered = true,
                    Ok(Err(e)) => {
                        show.end("refused");
                        return Err(e);
                    }
                    Err(_still_waiting) => {}
                }
            }
            let moves = self.moves().await?;
            let ours = moves.iter().filter_map(|m| Some((id(m)?, m))).max_by_key(|(id, _)| *id);
            let Some((move_id, line)) = ours.filter(|(id, _)| *id > earlier) else {
                if start.elapsed() > PATIENCE {
                    return Err(DemoError::Move(format!("{title} does not appear in SHOW MOVES")));
                }
                continue;
            };
            show.line(line);
            match column(line, "state") {
                "soaking" | "cleaning" | "done" => {
                    let held = held(line);
                    show.end(&format!("served by the new node; held {held}"));
                    return Ok(Arrived { move_id, took: start.elapsed(), held });
                }
                "failed" => {
                    show.end("failed");
                    let reason = column(line, "error");
                    return Err(DemoError::Move(format!("{title} failed: {reason}")));
                }
                _ if start.elapsed() > PATIENCE => {
                    show.end("given up");
                    let state = column(line, "state");
                    let blocker = column(line, "blocker");
                    return Err(DemoError::Move(format!(
                        "{title} is still {state} after {PATIENCE:?} ({blocker})"
                    )));
                }
                _ => {}
            }
        }
    }

    async fn moves(&self) -> Result<Vec<Line>, DemoError> {
        let failed = |e| DemoError::Sql("SHOW MOVES".into(), super::traffic::words(&e));
        let answer = self.looks.simple_query("SHOW MOVES").await.map_err(failed)?;
        Ok(answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .map(|row| {
                row.columns()
                    .iter()
                    .enumerate()
                    .filter_map(|(i, c)| {
                        Some((c.name().to_owned(), row.try_get(i).ok()??.to_owned()))
                    })
                    .collect()
            })
            .collect())
    }
}

fn column<'a>(line: &'a Line, name: &str) -> &'a str {
    line.get(name).map_or("", String::as_str)
}

fn id(line: &Line) -> Option<i64> {
    column(line, "move_id").parse().ok()
}

fn held(line: &Line) -> String {
    match column(line, "held_ms") {
        "" => "-".into(),
        ms => format!("{ms} ms"),
    }
}

/// A progress bar on a terminal, a line for each new state elsewhere.
struct Show {
    title: String,
    bar: Option<ProgressBar>,
    state: String,
}

impl Show {
    fn new(title: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = "  {prefix} {bar:30.cyan/blue} {bytes}/{total_bytes} {msg}";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(title.to_owned());
            bar
        });
        Self { title: title.to_owned(), bar, state: String::new() }
    }

    fn line(&mut self, line: &Line) {
        let state = column(line, "state");
        let number = |name| column(line, name).parse::<u64>().unwrap_or(0);
        match &self.bar {
            Some(bar) => {
                bar.set_length(number("bytes_total").max(number("bytes_done")));
                bar.set_position(number("bytes_done"));
                bar.set_message(state.to_owned());
            }
            None if state != self.state => println!("  {}: {state}", self.title),
            None => {}
        }
        state.clone_into(&mut self.state);
    }

    fn end(&self, outcome: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        println!("  {}: {outcome}", self.title);
    }
}
