//! Who the client is, and what it is told at login.
//!
//! Roles are PostgreSQL's own: the verifier comes from the home node's `pg_authid`. The parameters
//! reported (server_version, TimeZone, ...) are those of a real server connection of this role
//! with the client's startup parameters in force on it, so a bad parameter fails here as it would
//! in PostgreSQL.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::cancel::Registration;
use super::reported::{Asked, Known, Status};
use super::shared::Admission;
use super::worker::Worker;
use crate::auth::{Account, AuthError, Nonce, ScramServer};
use crate::backend::login::Credentials;
use crate::backend::server::ServerConn;
use crate::config::AuthMethod;
use crate::net::{Out, Stream};
use crate::pool::{Lease, PoolError, PoolKey};
use crate::session::{Session, are_in_force, reset_sql};
use crate::telemetry::{ClientAddr, ClientInfo, Live, NewClient, WorkerStats};
use crate::wire::backend::{self, Report};
use crate::wire::frontend::{self, Reader};
use crate::wire::startup::{self, Minor, Startup};
use crate::wire::{ProtocolError, frame};

pub enum Outcome {
    Session(Box<Parts>),
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
) -> Result<Outcome, Failure> {
    let shared = &worker.shared;
    worker.stats.clients_accepted.inc();
    // Who was accepted before a successor came is let in, and then handed over.
    let closing = shared.is_closing() && shared.successor().is_none();
    if closing && !CONSOLE.contains(&startup.database.as_str()) {
        worker.stats.clients_refused.inc();
        return Err(Report::fatal("57P03", "pgshunt is shutting down").into());
    }
    let Some(admission) = shared.admit() else {
        worker.stats.clients_refused.inc();
        return Err(Report::fatal("53300", "sorry, too many clients already").into());
    };
    let mut out = Out::default();
    let (protocol, asked_for) = Minor::spoken(startup.minor);
    if !asked_for || !startup.extensions.is_empty() {
        startup::put_negotiate(out.buf(), protocol, &startup.extensions);
    }
    if startup.replication.is_some() {
        return Err(Report::fatal("0A000", "replication connections are not supported")
            .hint("Connect to the node directly.")
            .into());
    }
    let credentials =
        authenticate(worker, stream, &mut input, &mut out, &startup.user, binding).await?;
    backend::put_authentication(out.buf(), 0, &[]);

    let application_name = startup
        .params
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case("application_name"))
        .map(|(_, v)| v.clone())
        .unwrap_or_default();
    if CONSOLE.contains(&startup.database.as_str()) {
        let config = shared.config.load();
        let user = &startup.user;
        if !config.is_admin(user) && !config.auth.stats_users.contains(user) {
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
    let status = server_status(worker, &user, &database, &credentials, &startup).await?;
    for (name, value) in &status {
        backend::put_parameter_status(out.buf(), name, value);
    }
    let cancel = shared.cancels.register(protocol);
    backend::put_backend_key(out.buf(), cancel.pid(), cancel.secret());
    backend::put_ready(out.buf(), backend::Status::Idle);
    stream.drain(&mut out).await?;

    let info = shared.registry.add_client(NewClient {
        user: startup.user,
        database: startup.database,
        application_name,
        addr,
        local: stream.socket().ends().map(|(_, ours)| ours),
        remote_pid: stream.socket().peer_pid(),
        tls: stream.is_tls(),
        worker: worker.index,
    });
    let mut session = Session::new(info.id, &startup.params);
    session.told(status);
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

async fn authenticate(
    worker: &Rc<Worker>,
    stream: &mut Stream,
    input: &mut BytesMut,
    out: &mut Out,
    user: &str,
    binding: Option<Vec<u8>>,
) -> Result<Credentials, Failure> {
    let shared = &worker.shared;
    let config = shared.config.load_full();
    let service = user == config.cluster.service_user;
    let own = |keys| match (&config.cluster.service_password, service) {
        (Some(password), true) => Credentials::Password(password.clone()),
        _ => keys,
    };
    if config.auth.method == AuthMethod::Trust {
        return Ok(own(Credentials::None));
    }
    let unavailable =
        |e: String| Report::fatal("57P03", "cannot check passwords at the moment").detail(e);
    let about = shared.roles.ask(user).await.map_err(unavailable)?;
    let verifier = about.role.as_ref().and_then(|r| r.verifier.as_ref());
    let account = match verifier {
        Some(v) => Account::Known(v),
        None => Account::Unknown { user: user.as_bytes(), secret: &about.mock },
    };
    let mut scram = ScramServer::new(account, Nonce::random(), binding);
    let mut mechanisms = Vec::new();
    for m in scram.mechanisms() {
        mechanisms.extend_from_slice(m.as_bytes());
        mechanisms.push(0);
    }
    mechanisms.push(0);
    backend::put_authentication(out.buf(), 10, &mechanisms);
    stream.drain(out).await?;

    let refused = |e: &AuthError| match e {
        AuthError::WrongPassword => {
            Report::fatal("28P01", format!("password authentication failed for user \"{user}\""))
        }
        other => Report::fatal(other.sqlstate(), other.to_string()),
    };
    let first = password_message(stream, input).await?;
    let mut r = Reader(&first);
    let mechanism = r.cstr()?;
    let len = r.i32()?;
    let data = r.bytes(usize::try_from(len).map_err(|_| ProtocolError("no SASL response"))?)?;
    let challenge = scram.on_initial(mechanism, data).map_err(|e| refused(&e))?;
    backend::put_authentication(out.buf(), 11, &challenge);
    stream.drain(out).await?;

    let proof = password_message(stream, input).await?;
    match scram.on_final(&proof) {
        Ok(success) => {
            backend::put_authentication(out.buf(), 12, &success.server_final);
            Ok(own(Credentials::Keys(success.keys)))
        }
        Err(e) => Err(refused(&e).into()),
    }
}

/// A SASL message; what is longer is no login.
const MAX_PASSWORD: usize = 64 << 10;

async fn password_message(stream: &mut Stream, input: &mut BytesMut) -> Result<BytesMut, Failure> {
    loop {
        if let Some(h) = frame::header(input)? {
            if h.tag != b'p' || h.len > MAX_PASSWORD {
                return Err(ProtocolError("expected a password response").into());
            }
            if input.len() >= h.len {
                let mut whole = input.split_to(h.len);
                return Ok(whole.split_off(frame::HEADER));
            }
        }
        if stream.fill(input).await? == 0 {
            return Err(Failure::Gone);
        }
    }
}

/// The parameters a server connection reports with the client's startup parameters in force.
async fn server_status(
    worker: &Rc<Worker>,
    user: &Arc<str>,
    database: &Arc<str>,
    credentials: &Credentials,
    startup: &Startup,
) -> Result<Status, Failure> {
    let shared = &worker.shared;
    let asked = Asked::new(database, user, &startup.params);
    let mut old = match shared.reported.look_up(Instant::now(), &asked, &startup.params) {
        Known::Fresh(status) => return Ok(status),
        Known::Old(status) => Some(status),
        Known::No => None,
    };
    let routes = shared.store.routes().load();
    let key = PoolKey { node: routes.home().id, database: database.clone(), user: user.clone() };
    let pool = shared.pools.pool(key, routes.home(), credentials);
    let leased = loop {
        if shared.pools.doors.is_closed(database) {
            match old.take() {
                Some(old) => return Ok(old),
                None => shared.pools.doors.pass(database).await,
            }
        }
        match (pool.lease(worker.index), old.take()) {
            (Lease::Now(conn), _) => break Ok(conn),
            (Lease::Later(_), Some(old)) => return Ok(old),
            (Lease::Later(mut waiting), None) => {
                match std::future::poll_fn(|cx| waiting.poll(cx)).await {
                    Err(PoolError::Paused) => {}
                    granted => break granted,
                }
            }
        }
    };
    let mut conn = leased.map_err(|e| fatal(&e))?;

    let session = Session::new(0, &startup.params);
    let wanted = session.settings();
    if !are_in_force(conn.facts.applied.as_ref(), wanted) {
        let sql = reset_sql(conn.facts.applied.as_ref(), wanted);
        conn.facts.applied = None;
        frontend::put_query(conn.output.buf(), sql.as_bytes());
        if let Some(error) = quiet_query(&mut conn).await.map_err(|e| broken(&e))? {
            conn.give(worker.index);
            let mut report = Report::from_node(&error);
            report.severity = "FATAL";
            return Err(report.into());
        }
        conn.facts.applied = Some(wanted.clone());
    }
    let status = conn.facts.reported.list().to_vec();
    shared.reported.remember(Instant::now(), asked, &status);
    conn.give(worker.index);
    Ok(status)
}

fn broken(e: &std::io::Error) -> Report {
    Report::fatal("08006", format!("the home node's connection broke off: {e}"))
}

/// A pool's refusal at login.
fn fatal(e: &PoolError) -> Report {
    let mut report = super::relay::report_of(e);
    report.severity = "FATAL";
    report
}

/// Sends what is in `output` and reads to ReadyForQuery; gives the error, if there was one.
pub async fn quiet_query(conn: &mut ServerConn) -> std::io::Result<Option<BytesMut>> {
    use std::io::{Error, ErrorKind};
    conn.stream.drain(&mut conn.output).await?;
    let mut error = None;
    loop {
        let header =
            frame::header(&conn.input).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
        match header {
            Some(h) if conn.input.len() >= h.len => {
                let mut body = conn.input.split_to(h.len).split_off(frame::HEADER);
                match h.tag {
                    b'Z' => return Ok(error),
                    b'E' => error = Some(std::mem::take(&mut body)),
                    b'S' => {
                        conn.facts.reported.note(&body);
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
