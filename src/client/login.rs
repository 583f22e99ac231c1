//! Who the client is, and what it is told at login.
//!
//! Roles are PostgreSQL's own ([`super::authenticate`]). The parameters reported (server_version, TimeZone, ...) are those of a real server connection of this role
//! with the client's startup parameters in force on it, so a bad parameter fails here as it would
//! in PostgreSQL.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey,
};

use super::authenticate::Client;
use super::cancel::Registration;
use super::replication::Granted;
use super::reported::{Asked, Known, Told};
use super::shared::Admission;
use super::threshold::{Standee, Threshold};
use super::worker::Worker;
use crate::backend::login::Credentials;
use crate::backend::server::ServerConn;
use crate::config::ConsoleRights;
use crate::net::{Out, Stream};
use crate::pool::{Lease, PoolError, PoolKey};
use crate::session::{Limits, Session, are_in_force, reset_sql};
use crate::telemetry::{ClientAddr, ClientInfo, Live, NewClient, WorkerStats};
use crate::wire::backend::{self, Report, Severity, report_field};
use crate::wire::frontend;
use crate::wire::startup::{Minor, Startup};
use crate::wire::{ProtocolError, frame, message};

pub enum Outcome {
    Session(Box<Parts>),
    Replication(Box<Granted>),
    Console(Guest),
}

/// Who has come for the console.
pub struct Guest {
    pub user: String,
    pub application_name: String,
    pub protocol: Minor,
}

/// What a session starts with.
pub struct Parts {
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub credentials: Credentials,
    pub session: Session,
    pub cancel: Registration,
    pub info: Live<ClientInfo>,
    /// The figures of its database.
    pub stats: Arc<WorkerStats>,
    /// Counts the client out when the session ends.
    #[expect(dead_code, reason = "held for its Drop")]
    pub admission: Admission,
    pub input: BytesMut,
}

pub enum Failure {
    /// The client left.
    Gone,
    Refused(Box<Report>),
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<Report> for Failure {
    fn from(r: Report) -> Self {
        Self::Refused(Box::new(r))
    }
}

impl From<ProtocolError> for Failure {
    fn from(e: ProtocolError) -> Self {
        Report::fatal("08P01", e.to_string()).into()
    }
}

/// The names under which the console is reached.
const CONSOLE: [&str; 2] = ["pgshunt", "pgbouncer"];

/// `binding`: what SCRAM-SHA-256-PLUS binds to, on a connection under TLS.
pub async fn run(
    worker: &Rc<Worker>,
    stream: &mut Stream,
    startup: Startup,
    mut input: BytesMut,
    addr: ClientAddr,
    binding: Option<Vec<u8>>,
    standee: Standee,
) -> Result<Outcome, Failure> {
    let shared = &worker.shared;
    worker.stats.clients_accepted.inc();
    // Who was accepted before a successor came is let in, and then handed over.
    let closing = shared.is_closing() && shared.successor().is_none();
    let console = CONSOLE.contains(&startup.database.as_str());
    if closing && !console {
        worker.stats.clients_refused.inc();
        return Err(Report::fatal("57P03", "pgshunt is shutting down").into());
    }
    if !console && Threshold::is_full(stream.socket(), &shared.config.load()) {
        return Err(crowded(worker));
    }
    let mut admission = shared.admit();
    let mut out = Out::default();
    let (protocol, asked_for) = Minor::spoken(startup.minor);
    if !asked_for || !startup.extensions.is_empty() {
        let known = NegotiateProtocolVersion::new(protocol.version(), startup.extensions.clone());
        message::put(out.buf(), &known);
    }
    let client = Client {
        worker,
        stream: &mut *stream,
        input: &mut input,
        out: &mut out,
        startup: &startup,
        addr,
        binding,
        console,
        asked: None,
    };
    let credentials = client.authenticate().await?;
    drop(standee);
    if !console && !admission.let_in() {
        return Err(crowded(worker));
    }
    message::put(out.buf(), &Authentication::Ok);

    let application_name = startup
        .params
        .iter()
        .rfind(|(n, _)| n.eq_ignore_ascii_case("application_name"))
        .map(|(_, v)| v.clone())
        .unwrap_or_default();
    if console {
        let user = &startup.user;
        let rights = shared.config.load().console_rights(user);
        if rights == ConsoleRights::None {
            return Err(Report::fatal("42501", "this role may not use the console")
                .hint("Add it to auth.admins, or to auth.stats_users if it shall only look.")
                .into());
        }
        stream.drain(&mut out).await?;
        let Startup { user, .. } = startup;
        return Ok(Outcome::Console(Guest { user, application_name, protocol }));
    }

    let user: Arc<str> = startup.user.as_str().into();
    let database: Arc<str> = startup.database.as_str().into();
    if shared.pools.doors.is_disabled(&database) {
        let why = format!("database \"{database}\" is disabled");
        return Err(Report::fatal("55000", why).hint("ENABLE in the console ends that.").into());
    }
    shared.pools.renew(&user, &credentials);
    let entry = NewClient {
        user: startup.user.clone(),
        database: startup.database.clone(),
        application_name,
        addr,
        local: stream.socket().ends().map(|(_, ours)| ours),
        remote_pid: stream.socket().peer_pid(),
        tls: stream.is_tls(),
        worker: worker.index,
        since: None,
    };
    if let Some(kind) = &startup.replication {
        let mut parameters = startup.params.clone();
        parameters.push(("replication".to_owned(), kind.clone()));
        let routes = shared.store.routes().load();
        let mut server = shared
            .pools
            .connect_alone(routes.home(), &database, &user, &credentials, &parameters, worker.index)
            .await
            .map_err(|e| fatal(&PoolError::Login(e)))?;
        let cancel = shared.cancels.register_as(server.cancel.key.pid, protocol);
        put_welcome(out.buf(), server.facts().reported.list(), &cancel);
        stream.drain(&mut out).await?;
        let info = shared.registry.add_client(entry);
        let granted = Granted { server, cancel, info, admission, input };
        return Ok(Outcome::Replication(Box::new(granted)));
    }
    let told = server_status(worker, &user, &database, &credentials, &startup).await?;
    let cancel = shared.cancels.register(protocol);
    out.buf().extend_from_slice(&told.notices);
    put_welcome(out.buf(), &told.status, &cancel);
    stream.drain(&mut out).await?;

    let info = shared.registry.add_client(entry);
    let mut session = Session::new(info.id, &startup.params);
    session.told(told.status);
    session.may_idle(told.limits);
    let stats = shared.registry.database(worker.index, &database);
    stats.logins.inc();
    Ok(Outcome::Session(Box::new(Parts {
        user,
        database,
        credentials,
        session,
        cancel,
        info,
        stats,
        admission,
        input,
    })))
}

fn crowded(worker: &Worker) -> Failure {
    worker.stats.clients_refused.inc();
    Report::fatal("53300", "sorry, too many clients already").into()
}

/// The end of a login: the server's parameters, the client's cancel key, ReadyForQuery.
fn put_welcome(out: &mut Vec<u8>, status: &[(String, String)], cancel: &Registration) {
    for (name, value) in status {
        backend::put_parameter_status(out, name, value);
    }
    let secret = SecretKey::Bytes(cancel.secret().to_vec().into());
    message::put(out, &BackendKeyData::new(cancel.pid(), secret));
    backend::put_ready(out, backend::Status::Idle);
}

/// The parameters a server connection reports with the client's startup parameters in force.
async fn server_status(
    worker: &Rc<Worker>,
    user: &Arc<str>,
    database: &Arc<str>,
    credentials: &Credentials,
    startup: &Startup,
) -> Result<Told, Failure> {
    let shared = &worker.shared;
    let asked = Asked::new(database, user, &startup.params);
    let mut old = match shared.reported.look_up(Instant::now(), &asked, &startup.params) {
        Known::Fresh(told) => return Ok(told),
        Known::Old(told) => Some(told),
        Known::No => None,
    };
    let routes = shared.store.routes().load();
    let key = PoolKey { node: routes.home().id, database: database.clone(), user: user.clone() };
    let pool = shared.pools.pool(key, routes.home(), credentials);
    let session = Session::new(0, &startup.params);
    let wanted = session.settings();
    let mut tries = 0;
    loop {
        if shared.pools.doors.is_closed(database) {
            match old.take() {
                Some(old) => return Ok(old),
                None => shared.pools.doors.pass(database).await,
            }
        }
        let leased = match (pool.lease(worker.index, false), old.take()) {
            (Lease::Now(conn), _) => Ok(conn),
            (Lease::Later(_), Some(old)) => return Ok(old),
            (Lease::Later(mut waiting), None) => std::future::poll_fn(|cx| waiting.poll(cx)).await,
        };
        let mut conn = match leased {
            Err(PoolError::Paused) => continue,
            leased => leased.map_err(|e| fatal(&e))?,
        };
        // Where they are in force already they say nothing any more.
        let in_force = are_in_force(conn.facts().applied.as_ref(), wanted);
        let mut said = Said::default();
        let mut sql = String::new();
        if !in_force || !startup.params.is_empty() {
            sql = reset_sql(conn.facts().applied.as_ref(), wanted);
            conn.facts().applied = None;
        }
        sql += Limits::SQL;
        frontend::put_query(conn.output.buf(), sql.as_bytes());
        let refused = quiet_query(&mut conn, &mut said).await;
        // Setting parameters can be done again: one that idled may have been ended by its node.
        tries += 1;
        match refused {
            Err(_) if tries < TRIES => continue,
            Err(e) => return Err(broken(&e).into()),
            Ok(Some(error)) if tries < TRIES && was_ended(&error) => continue,
            Ok(Some(error)) => {
                conn.give(worker.index, Instant::now());
                let mut report = Report::from_node(&error);
                report.severity = Severity::Fatal;
                return Err(report.into());
            }
            Ok(None) => conn.facts().applied = Some(wanted.clone()),
        }
        let Said { notices, last_row } = said;
        let limits =
            backend::data_row(&last_row).map_or_else(Limits::default, |r| Limits::read(&r));
        let told = Told { notices, status: conn.facts().reported.list().to_vec(), limits };
        shared.reported.remember(Instant::now(), asked, &told);
        conn.give(worker.index, Instant::now());
        return Ok(told);
    }
}

/// Connections that a login tries, when they turn out to be ended.
const TRIES: usize = 5;

/// Whether the node has ended the connection, rather than refused what was asked.
fn was_ended(error: &[u8]) -> bool {
    matches!(report_field(error, b'C'), Some(b"57P01" | b"57P02" | b"57P05"))
}

fn broken(e: &std::io::Error) -> Report {
    Report::fatal("08006", format!("the home node's connection broke off: {e}"))
}

/// A pool's refusal at login.
fn fatal(e: &PoolError) -> Report {
    let mut report = super::relay::report_of(e);
    report.severity = Severity::Fatal;
    report
}

/// What a server says to a text besides its errors.
#[derive(Default)]
struct Said {
    /// Notices as they came.
    notices: Vec<u8>,
    /// The body of the last DataRow.
    last_row: BytesMut,
}

/// Sends what is in `output` and reads to ReadyForQuery; gives the error, if there was one.
async fn quiet_query(conn: &mut ServerConn, said: &mut Said) -> std::io::Result<Option<BytesMut>> {
    use std::io::{Error, ErrorKind};
    conn.stream.drain(&mut conn.output).await?;
    let mut error = None;
    loop {
        let header =
            frame::header(&conn.input).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
        match header {
            Some(h) if conn.input.len() >= h.len => {
                let mut body = conn.input.split_to(h.len);
                if h.tag == b'N' {
                    said.notices.extend_from_slice(&body);
                }
                body.advance(frame::HEADER);
                match h.tag {
                    b'Z' => return Ok(error),
                    b'E' => error = Some(std::mem::take(&mut body)),
                    b'D' => said.last_row = std::mem::take(&mut body),
                    b'S' => {
                        conn.facts().reported.note(&body);
                    }
                    _ => {}
                }
            }
            _ => {
                if conn.stream.fill(&mut conn.input).await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}
