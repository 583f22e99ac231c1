//! The wire protocol of one console session, from after the login to the end.
//!
//! Both protocols lead to the same commands. In the extended one a command runs when its portal is
//! executed; there are no parameters. Messages are small here, so each is read whole, within
//! [`MAX_MESSAGE`].

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::ParameterDescription;
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery};
use pgwire::messages::startup::{BackendKeyData, ParameterStatus, SecretKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

mod luggage;

use super::command::{Command, parse};
use super::reply::{Column, Item, Value, describe, is_binary, put_row, put_row_description};
use super::{COMPATIBLE, ConsoleContext, act, columns};
use crate::telemetry::{ClientInfo, ClientState, NewClient, PlanKind, WorkerStats};
use crate::wire::backend::{Report, Status};
use crate::wire::frontend::{self, Named, Reader};
use crate::wire::{ProtocolError, frame, message};

/// No command is longer.
const MAX_MESSAGE: usize = 64 << 10;
/// Prepared statements, and portals, a session may have.
const MAX_NAMED: usize = 256;
/// Answer bytes gathered before they are written.
const GATHER: usize = 16 << 10;

/// The cancel requests for a session.
pub trait CancelSignal {
    /// A statement runs: registers the waker, and is true if it is to be cancelled.
    fn poll_cancelled(&mut self, waker: &Waker) -> bool;
    /// No statement runs: a cancel that comes now means nothing.
    fn idle(&mut self);
}

/// Who has logged in.
pub struct Login {
    /// The line in SHOW CLIENTS; its database is the console's.
    pub entry: NewClient,
    /// The cancel key.
    pub pid: i32,
    pub secret: Vec<u8>,
    pub cancel: Box<dyn CancelSignal>,
    /// Turns true when pgshunt shuts down.
    pub draining: watch::Receiver<bool>,
    /// Whether another process goes on with the session then.
    pub goes_on: Box<dyn Fn() -> bool>,
    /// What the session was with the process before this one.
    pub session: Option<String>,
}

/// Serves a session whose login was answered with AuthenticationOk. Gives the stream and the session
/// when another process is to go on with them.
///
/// # Errors
/// When the client's socket fails; how a session ends otherwise is between it and the client.
pub async fn serve<S>(
    stream: S,
    ctx: ConsoleContext,
    login: Login,
) -> io::Result<Option<(S, String)>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let user = login.entry.user.clone();
    let worker = login.entry.worker;
    let info = ctx.registry.add_client(NewClient { database: super::ADMIN.into(), ..login.entry });
    let stats = ctx.registry.database(worker, super::ADMIN);
    let mut session = Session {
        stream,
        user,
        ctx,
        stats,
        input: BytesMut::new(),
        out: Vec::new(),
        cancel: login.cancel,
        draining: login.draining,
        goes_on: login.goes_on,
        status: Status::Idle,
        failed: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
    };
    match login.session {
        Some(packed) => session.unpack(&packed)?,
        None => {
            session.stats.logins.inc();
            session.greet(login.pid, &login.secret);
            session.flush().await?;
        }
    }
    let ended = tokio::select! {
        biased;
        ended = session.converse(&info) => ended,
        () = info.killed() => Err(End::Told(Report::fatal(
            "57P01",
            "terminating connection due to administrator command",
        ))),
    };
    match ended {
        Ok(()) => Ok(None),
        Err(End::GoesOn) => {
            let packed = session.pack()?;
            Ok(Some((session.stream, packed)))
        }
        Err(End::Io(e)) => Err(e),
        Err(End::Told(report)) => session.close(&report).await.map(|()| None),
    }
}

/// Why a session ends.
enum End {
    Io(io::Error),
    /// With a FATAL for the client.
    Told(Report),
    /// Not at all: it goes on with another process.
    GoesOn,
}

impl From<io::Error> for End {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<ProtocolError> for End {
    fn from(e: ProtocolError) -> Self {
        Self::Told(Report::fatal("08P01", e.to_string()))
    }
}

#[derive(Debug, Clone)]
struct Statement {
    /// As it came.
    text: String,
    command: Option<Command>,
}

struct Portal {
    statement: Statement,
    formats: Vec<i16>,
    /// What is left of a result that was fetched in parts.
    rest: Option<(Vec<Column>, VecDeque<Vec<Value>>, String)>,
}

struct Session<S> {
    stream: S,
    ctx: ConsoleContext,
    user: String,
    stats: Arc<WorkerStats>,
    input: BytesMut,
    out: Vec<u8>,
    cancel: Box<dyn CancelSignal>,
    draining: watch::Receiver<bool>,
    status: Status,
    /// An extended message failed: everything up to Sync is skipped.
    failed: bool,
    goes_on: Box<dyn Fn() -> bool>,
    statements: HashMap<Vec<u8>, Statement>,
    portals: HashMap<Vec<u8>, Portal>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Until one of both ends it.
    async fn converse(&mut self, info: &ClientInfo) -> Result<(), End> {
        loop {
            info.set_state(ClientState::Idle);
            self.cancel.idle();
            let Some((tag, body)) = self.next().await? else { return Ok(()) };
            info.set_state(ClientState::Active);
            info.set_requested(Instant::now());
            if !self.handle(tag, &body).await? {
                return Ok(());
            }
            info.set_prepared(self.statements.len() as u64);
        }
    }

    fn greet(&mut self, pid: i32, secret: &[u8]) {
        for (name, value) in [
            ("server_version", format!("{COMPATIBLE}/bouncer").as_str()),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "on"),
        ] {
            self.say(&ParameterStatus::new(name.to_owned(), value.to_owned()));
        }
        self.say(&BackendKeyData::new(pid, SecretKey::Bytes(secret.to_vec().into())));
        self.say(&ReadyForQuery::new(self.status.into()));
    }

    fn say(&mut self, message: &impl Message) {
        message::put(&mut self.out, message);
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.stats.bytes_to_clients.add(self.out.len() as u64);
        self.out.clear();
        self.stream.flush().await
    }

    async fn close(&mut self, report: &Report) -> io::Result<()> {
        report.put(&mut self.out);
        self.flush().await?;
        self.stream.shutdown().await
    }

    /// The next message; `None` when the client has gone.
    async fn next(&mut self) -> Result<Option<(u8, BytesMut)>, End> {
        loop {
            if let Some(header) = frame::header(&self.input)? {
                if header.len > MAX_MESSAGE {
                    return Err(End::Told(Report::fatal("54000", "the message is too long")));
                }
                if self.input.len() >= header.len {
                    let mut message = self.input.split_to(header.len);
                    message.advance(frame::HEADER);
                    return Ok(Some((header.tag, message)));
                }
            }
            if *self.draining.borrow() {
                return Err(if self.rests() && (self.goes_on)() {
                    End::GoesOn
                } else {
                    shutting_down()
                });
            }
            self.input.reserve(4096);
            tokio::select! {
                read = self.stream.read_buf(&mut self.input) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(None);
                    }
                    self.stats.bytes_from_clients.add(read as u64);
                }
                changed = self.draining.changed() => {
                    if changed.is_err() {
                        return Err(shutting_down());
                    }
                }
            }
        }
    }

    /// False: the client says goodbye.
    async fn handle(&mut self, tag: u8, body: &[u8]) -> Result<bool, End> {
        match tag {
            b'X' => return Ok(false),
            b'S' => {
                self.failed = false;
                if self.status == Status::Idle {
                    // A portal ends with its transaction.
                    self.portals.clear();
                }
                self.say(&ReadyForQuery::new(self.status.into()));
                self.flush().await?;
            }
            b'Q' => {
                self.failed = false;
                self.simple(frontend::query(body)?).await?;
            }
            _ if self.failed => {}
            b'H' => self.flush().await?,
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                if let Err(report) = self.extended(tag, body).await? {
                    report.put(&mut self.out);
                    self.failed = true;
                }
                if self.out.len() > GATHER {
                    self.flush().await?;
                }
            }
            b'F' => {
                Report::error("0A000", "the console has no functions").put(&mut self.out);
                self.say(&ReadyForQuery::new(self.status.into()));
                self.flush().await?;
            }
            // COPY data may still be under way when a COPY has failed; there is never one here.
            b'd' | b'c' | b'f' => {}
            _ => return Err(ProtocolError("unknown message type").into()),
        }
        Ok(true)
    }

    async fn simple(&mut self, text: &[u8]) -> Result<(), End> {
        match commands(text) {
            Err(report) => report.put(&mut self.out),
            Ok(commands) if commands.is_empty() => self.say(&EmptyQueryResponse::new()),
            Ok(commands) => {
                for command in commands {
                    if !self.run_simple(command).await? {
                        break;
                    }
                }
            }
        }
        self.say(&ReadyForQuery::new(self.status.into()));
        self.flush().await?;
        Ok(())
    }

    /// False: it failed.
    async fn run_simple(&mut self, command: Command) -> Result<bool, End> {
        self.note_transaction(&command);
        let mut items = self.start(command);
        let mut columns = Vec::new();
        while let Some(item) = self.item(&mut items).await? {
            match item {
                Item::Columns(c) => {
                    put_row_description(&mut self.out, &c, |_| false);
                    columns = c;
                }
                Item::Row(row) => {
                    put_row(&mut self.out, &columns, &row, |_| false);
                    if self.out.len() > GATHER {
                        self.flush().await?;
                    }
                }
                Item::Notice(report) => {
                    report.put(&mut self.out);
                    self.flush().await?;
                }
                Item::Tag(tag) => {
                    self.say(&CommandComplete::new(tag));
                    return Ok(true);
                }
                Item::Error(report) => {
                    report.put(&mut self.out);
                    return Ok(false);
                }
            }
        }
        stopped().put(&mut self.out);
        Ok(false)
    }

    /// Drivers begin transactions everywhere and look at the status; nothing else comes of it.
    fn note_transaction(&mut self, command: &Command) {
        match command {
            Command::Nothing("BEGIN") => self.status = Status::Transaction,
            Command::Nothing("COMMIT" | "ROLLBACK") => self.status = Status::Idle,
            _ => {}
        }
    }

    fn start(&self, command: Command) -> mpsc::Receiver<Item> {
        let (out, items) = mpsc::channel(64);
        self.stats.statements(PlanKind::Session).inc();
        match self.ctx.allow(&self.user, &command) {
            Ok(()) => drop(self.ctx.control.spawn(act::run(self.ctx.clone(), command, out))),
            // There is room for one.
            Err(report) => drop(out.try_send(Item::Error(report))),
        }
        items
    }

    /// The answer's next item, or an error in its place when the client cancels or pgshunt stops.
    async fn item(&mut self, items: &mut mpsc::Receiver<Item>) -> Result<Option<Item>, End> {
        loop {
            // A successor takes the client when it has its answer.
            let stays = (self.goes_on)();
            let signal = &mut self.cancel;
            let cancel = poll_fn(|cx| match signal.poll_cancelled(cx.waker()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            tokio::select! {
                biased;
                item = items.recv() => return Ok(item),
                () = cancel => {
                    items.close();
                    let report = Report::error("57014", "canceling statement due to user request")
                        .hint("A pause is given up; a move goes on (SHOW MOVES, CANCEL MOVE).");
                    return Ok(Some(Item::Error(report)));
                }
                _ = self.draining.changed(), if !stays => {
                    if !(self.goes_on)() {
                        return Err(shutting_down());
                    }
                }
            }
        }
    }

    async fn extended(&mut self, tag: u8, body: &[u8]) -> Result<Result<(), Report>, End> {
        Ok(match tag {
            b'P' => {
                let p = frontend::parse(body)?;
                self.stats.client_parses.inc();
                self.parse(p.name, p.text)
            }
            b'B' => {
                self.stats.binds.inc();
                self.bind(body)?
            }
            b'D' => match frontend::named(body)? {
                Named::Statement(name) => self.describe_statement(name),
                Named::Portal(name) => self.describe_portal(name),
                Named::Other(_) => return Err(ProtocolError("invalid message format").into()),
            },
            b'E' => {
                let (name, limit) = frontend::execute(body)?;
                self.execute(name, limit).await?
            }
            _ => {
                match frontend::named(body)? {
                    Named::Statement(name) => drop(self.statements.remove(name)),
                    Named::Portal(name) => drop(self.portals.remove(name)),
                    Named::Other(_) => return Err(ProtocolError("invalid message format").into()),
                }
                self.say(&CloseComplete::new());
                Ok(())
            }
        })
    }

    fn parse(&mut self, name: &[u8], text: &[u8]) -> Result<(), Report> {
        let statement = prepare(text)?;
        if !name.is_empty() && self.statements.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(Report::error(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        if self.statements.len() >= MAX_NAMED {
            return Err(Report::error("54000", "too many prepared statements"));
        }
        self.statements.insert(name.to_owned(), statement);
        self.say(&ParseComplete::new());
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<Result<(), Report>, End> {
        let b = frontend::bind(body)?;
        if b.param(0).is_some() {
            return Ok(Err(Report::error("0A000", "the console's commands take no parameters")));
        }
        let Some(statement) = self.statements.get(b.statement).cloned() else {
            return Ok(Err(no_statement(b.statement)));
        };
        // Parameter formats, no parameters, then the result's formats.
        let mut rest = Reader(b.rest);
        let n = rest.i16()?;
        rest.bytes(usize::try_from(n).unwrap_or(0) * 2)?;
        rest.i16()?;
        let n = rest.i16()?;
        let mut formats = Vec::new();
        for _ in 0..n.max(0) {
            formats.push(rest.i16()?);
        }
        let columns = statement.columns();
        if formats.len() > 1 && formats.len() != columns.len() {
            return Ok(Err(Report::error(
                "08P01",
                "bind message has a wrong number of result formats",
            )));
        }
        if self.portals.len() >= MAX_NAMED {
            return Ok(Err(Report::error("54000", "too many portals")));
        }
        self.portals.insert(b.portal.to_owned(), Portal { statement, formats, rest: None });
        self.say(&BindComplete::new());
        Ok(Ok(()))
    }

    fn describe_statement(&mut self, name: &[u8]) -> Result<(), Report> {
        let columns = self.statements.get(name).ok_or_else(|| no_statement(name))?.columns();
        self.say(&ParameterDescription::new(Vec::new()));
        describe(&mut self.out, &columns, &[]);
        Ok(())
    }

    fn describe_portal(&mut self, name: &[u8]) -> Result<(), Report> {
        let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
        let columns = portal.statement.columns();
        describe(&mut self.out, &columns, &portal.formats);
        Ok(())
    }

    async fn execute(&mut self, name: &[u8], limit: i32) -> Result<Result<(), Report>, End> {
        let Some(mut portal) = self.portals.remove(name) else { return Ok(Err(no_portal(name))) };
        let (columns, mut rows, tag) = match (portal.rest.take(), portal.statement.command.clone())
        {
            (Some(rest), _) => rest,
            (None, None) => {
                self.say(&EmptyQueryResponse::new());
                return Ok(Ok(()));
            }
            (None, Some(command)) => {
                self.note_transaction(&command);
                match self.collect(command).await? {
                    Ok(result) => result,
                    Err(report) => return Ok(Err(report)),
                }
            }
        };
        let wanted = usize::try_from(limit).ok().filter(|&n| n > 0).unwrap_or(usize::MAX);
        for row in rows.drain(..rows.len().min(wanted)) {
            put_row(&mut self.out, &columns, &row, is_binary(&portal.formats));
        }
        if rows.is_empty() {
            self.say(&CommandComplete::new(tag));
        } else {
            self.say(&PortalSuspended::new());
            portal.rest = Some((columns, rows, tag));
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(Ok(()))
    }

    /// Runs a command to its end. Notices go out at once, rows are kept.
    async fn collect(
        &mut self,
        command: Command,
    ) -> Result<Result<(Vec<Column>, VecDeque<Vec<Value>>, String), Report>, End> {
        let mut items = self.start(command);
        let (mut columns, mut rows) = (Vec::new(), VecDeque::new());
        while let Some(item) = self.item(&mut items).await? {
            match item {
                Item::Columns(c) => columns = c,
                Item::Row(row) => rows.push_back(row),
                Item::Notice(report) => {
                    report.put(&mut self.out);
                    self.flush().await?;
                }
                Item::Tag(tag) => return Ok(Ok((columns, rows, tag))),
                Item::Error(report) => return Ok(Err(report)),
            }
        }
        Ok(Err(stopped()))
    }
}

impl Statement {
    fn columns(&self) -> Vec<Column> {
        self.command.as_ref().map(columns::of_command).unwrap_or_default()
    }
}

fn prepare(text: &[u8]) -> Result<Statement, Report> {
    let mut all = commands(text)?;
    if all.len() > 1 {
        return Err(Report::error("42601", "a prepared statement can only be one command"));
    }
    let text = String::from_utf8_lossy(text).into_owned();
    Ok(Statement { text, command: all.pop() })
}

fn commands(text: &[u8]) -> Result<Vec<Command>, Report> {
    let text = std::str::from_utf8(text)
        .map_err(|_| Report::error("22021", "invalid byte sequence for encoding \"UTF8\""))?;
    parse(text).map_err(|e| Report::error(e.sqlstate, e.message).hint(e.hint))
}

fn no_statement(name: &[u8]) -> Report {
    let name = String::from_utf8_lossy(name);
    Report::error("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn no_portal(name: &[u8]) -> Report {
    let name = String::from_utf8_lossy(name);
    Report::error("34000", format!("portal \"{name}\" does not exist"))
}

fn stopped() -> Report {
    Report::error("57P01", "the command was broken off")
}

fn shutting_down() -> End {
    End::Told(Report::fatal("57P01", "pgshunt is shutting down"))
}
