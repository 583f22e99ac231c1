//! Logging in to a node as the client's own role.
//!
//! Most roles log in by SCRAM pass-through: the client proved that it knows its password, and that
//! proof yields the ClientKey with which pgshunt can prove the same to the node. No password is
//! stored for that. The service role logs in with its configured password, and roles of the user
//! file with theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::server::{Cancel, CancelKey, ServerConn};
use crate::auth::{
    AuthError, ClientKeys, ClientSecret, Md5Secret, NodeTrust, Nonce, ScramClient, Unsafe,
};
use crate::net::{Out, Socket, Stream};
use crate::pool::state::ConnId;
use crate::session::Facts;
use crate::telemetry::{NewServer, Registry};
use crate::topology::Node;
use crate::wire::backend::report_field;
use crate::wire::frontend::Reader;
use crate::wire::{frame, startup};

/// With what pgshunt proves to a node that it speaks for a role.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub enum Credentials {
    /// The client has not shown a password, and none is known; the node must not want one.
    None,
    Password(String),
    /// Good for nodes that ask by md5.
    Md5(Md5Secret),
    /// SCRAM pass-through.
    Keys(ClientKeys),
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginError {
    #[error("could not connect to node {node}: {error}")]
    Unreachable { node: String, error: String },
    #[error("node {node} did not answer within {after:?}")]
    Timeout { node: String, after: Duration },
    /// The node's own ErrorResponse body, passed on to the client as it is.
    #[error("node {node}: {}", String::from_utf8_lossy(report_field(body, b'M').unwrap_or(b"?")))]
    Refused { node: String, body: Vec<u8> },
    /// What it would take to log in to the node as the client's role is not there.
    #[error("cannot log in to node {node} as role \"{user}\": {what}")]
    NoSecret { node: String, user: String, what: &'static str, hint: &'static str },
    /// Or it is, and whoever answers is not to have it.
    #[error("cannot log in to node {node} as role \"{user}\": {what}")]
    Unsafe { node: String, user: String, what: Unsafe },
    #[error("node {node}: {what}")]
    Protocol { node: String, what: String },
}

/// Where and as whom.
pub struct Target<'a> {
    pub node: &'a Node,
    pub database: &'a str,
    pub user: &'a str,
    /// What the startup packet asks for besides.
    pub parameters: &'a [(String, String)],
    pub credentials: &'a Credentials,
    pub tls: &'a crate::net::tls::ClientTls,
    /// Where the connection appears in SHOW SERVERS, and the worker whose it is.
    pub registry: &'a Registry,
    pub worker: usize,
}

/// Opens a server connection and logs in.
pub async fn connect(
    target: Target<'_>,
    id: ConnId,
    timeout: Duration,
) -> Result<Box<ServerConn>, LoginError> {
    let node = target.node.name.clone();
    tokio::time::timeout(timeout, login(target, id))
        .await
        .unwrap_or(Err(LoginError::Timeout { node, after: timeout }))
}

async fn login(target: Target<'_>, id: ConnId) -> Result<Box<ServerConn>, LoginError> {
    let name = &target.node.name;
    let unreachable =
        |e: std::io::Error| LoginError::Unreachable { node: name.clone(), error: e.to_string() };
    let protocol = |what: String| LoginError::Protocol { node: name.clone(), what };

    let socket = Socket::connect(&target.node.host, target.node.port).await.map_err(unreachable)?;
    let (mut stream, trust) =
        target.tls.wrap(socket, &target.node.host).await.map_err(|e| protocol(e.to_string()))?;

    let mut out = Out::default();
    startup::put_startup(
        out.buf(),
        [("user", target.user), ("database", target.database)]
            .into_iter()
            .chain(target.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str()))),
    );
    stream.drain(&mut out).await.map_err(unreachable)?;

    let mut input = BytesMut::new();
    let mut scram: Option<ScramClient> = None;
    let mut facts = Facts::default();
    let mut key = None;
    let mut seen = 0;
    loop {
        let (tag, body) = read_frame(&mut stream, &mut input).await.map_err(unreachable)?;
        seen += body.len();
        if seen > MAX_LOGIN {
            return Err(protocol("does not come to an end with its login".into()));
        }
        match tag {
            b'R' => {
                let mut r = Reader(&body);
                let code = r.i32().map_err(|e| protocol(e.to_string()))?;
                let answer = authenticate(code, r.0, &target, &trust, &mut scram)
                    .map_err(|problem| problem.at(&target))?;
                if let Some(answer) = answer {
                    frame::put(out.buf(), b'p', |b| b.extend_from_slice(&answer));
                    stream.drain(&mut out).await.map_err(unreachable)?;
                }
            }
            b'S' => facts.reported.note(&body),
            b'K' => {
                let mut r = Reader(&body);
                key = r.i32().ok().map(|pid| (pid, r.0.to_vec()));
            }
            b'E' => return Err(LoginError::Refused { node: name.clone(), body: body.to_vec() }),
            b'N' | b'v' => {}
            b'Z' => break,
            other => return Err(protocol(format!("unexpected message {:?}", other as char))),
        }
    }
    let (pid, secret) = key.ok_or_else(|| protocol("sent no cancel key".into()))?;
    let key = CancelKey {
        host: target.node.host.clone(),
        port: target.node.port,
        pid,
        secret,
        tls: target.tls.clone(),
    };
    let info = target.registry.add_server(NewServer {
        node: target.node.id,
        user: target.user.to_owned(),
        database: target.database.to_owned(),
        tls: stream.is_tls(),
        worker: target.worker,
    });
    info.set_backend_pid(pid);
    facts.pid = pid;
    if let Some((node, ours)) = stream.socket().ends() {
        info.set_ends(node, ours);
    }
    let pending = info.cancels().clone();
    Ok(Box::new(ServerConn {
        id,
        info,
        node: target.node.id,
        stream,
        input,
        output: out,
        cancel: Arc::new(Cancel { key, pending }),
        facts: Some(Box::new(facts)),
        opened: Instant::now(),
    }))
}

/// Why an authentication request is not answered.
enum Problem {
    NoSecret { what: &'static str, hint: &'static str },
    Unsafe(Unsafe),
    Protocol(String),
}

impl Problem {
    fn at(self, target: &Target<'_>) -> LoginError {
        let node = target.node.name.clone();
        match self {
            Self::NoSecret { what, hint } => {
                LoginError::NoSecret { node, user: target.user.to_owned(), what, hint }
            }
            Self::Unsafe(what) => LoginError::Unsafe { node, user: target.user.to_owned(), what },
            Self::Protocol(what) => LoginError::Protocol { node, what },
        }
    }
}

/// Answers one authentication request; `None` where there is nothing to say.
fn authenticate(
    code: i32,
    payload: &[u8],
    target: &Target<'_>,
    trust: &NodeTrust,
    scram: &mut Option<ScramClient>,
) -> Result<Option<Vec<u8>>, Problem> {
    let lacks = |what, hint| Problem::NoSecret { what, hint };
    let protocol = |e: AuthError| match e {
        AuthError::VerifierDiffers => lacks(
            "it keeps another SCRAM secret for this role than the one the client has proven",
            "The role's rolpassword must be the same on all nodes: ALTER ROLE through pgshunt.",
        ),
        e => Problem::Protocol(e.to_string()),
    };
    let cstr = |mut text: Vec<u8>| {
        text.push(0);
        Some(text)
    };
    // What is known of the password is not told to everybody who asks.
    match target.credentials {
        Credentials::None => {}
        Credentials::Password(_) | Credentials::Md5(_) | Credentials::Keys(_) => {
            trust.check(code, payload).map_err(Problem::Unsafe)?;
        }
    }
    match code {
        0 if scram.as_ref().is_some_and(|s| !s.is_genuine()) => {
            Err(Problem::Protocol("did not show that it knows the role's secret".into()))
        }
        0 => Ok(None),
        3 => match target.credentials {
            Credentials::Password(p) => Ok(cstr(p.as_bytes().to_vec())),
            Credentials::None | Credentials::Md5(_) | Credentials::Keys(_) => Err(lacks(
                "it asks for the password in clear, which pgshunt does not know",
                "Set scram-sha-256 in the node's pg_hba.conf, or auth.user_file here.",
            )),
        },
        5 => {
            let salt = payload.try_into().map_err(|_| Problem::Protocol("bad md5 salt".into()))?;
            let secret = match target.credentials {
                Credentials::Password(p) => Md5Secret::of(target.user, p.as_bytes()),
                Credentials::Md5(secret) => secret.clone(),
                Credentials::None | Credentials::Keys(_) => {
                    return Err(lacks(
                        "it asks for an md5 password, and pgshunt knows none",
                        "Set scram-sha-256 in the node's pg_hba.conf, or auth.user_file here.",
                    ));
                }
            };
            Ok(cstr(secret.answer(salt).into_bytes()))
        }
        10 if scram.is_some() => Err(Problem::Protocol("begins SASL twice".into())),
        10 => {
            let secret = match target.credentials {
                Credentials::Password(p) => ClientSecret::Password(p.as_bytes().to_vec()),
                Credentials::Keys(k) => ClientSecret::Keys(k.clone()),
                Credentials::None | Credentials::Md5(_) => {
                    return Err(lacks(
                        "it asks for a SCRAM password, and the client has shown none",
                        "Ask clients by scram-sha-256, put the role's password into \
                         auth.user_file, or let the role in without one in the node's pg_hba.conf.",
                    ));
                }
            };
            let binding = trust.binding.clone();
            let client =
                ScramClient::new(secret, payload, binding, Nonce::random()).map_err(protocol)?;
            let (mechanism, first) = scram.insert(client).initial();
            let mut answer = mechanism.as_bytes().to_vec();
            answer.push(0);
            answer.extend_from_slice(&(first.len() as u32).to_be_bytes());
            answer.extend_from_slice(&first);
            Ok(Some(answer))
        }
        11 | 12 => {
            let s = scram.as_mut().ok_or_else(|| Problem::Protocol("SASL out of order".into()))?;
            if code == 11 {
                s.on_continue(payload).map(Some).map_err(protocol)
            } else {
                s.on_final(payload).map(|()| None).map_err(protocol)
            }
        }
        other => Err(Problem::Protocol(format!(
            "asks for authentication method {other}, which is not supported"
        ))),
    }
}

/// A node's message at login; later ones are relayed and never read whole.
const MAX_LOGIN_FRAME: usize = 64 << 10;
/// All of them, in bytes.
const MAX_LOGIN: usize = 1 << 20;

async fn read_frame(stream: &mut Stream, input: &mut BytesMut) -> std::io::Result<(u8, BytesMut)> {
    use std::io::{Error, ErrorKind};
    loop {
        let header = frame::header(input).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
        match header {
            Some(h) if h.len > MAX_LOGIN_FRAME => {
                return Err(Error::new(ErrorKind::InvalidData, "oversized message at login"));
            }
            Some(h) if input.len() >= h.len => {
                let mut whole = input.split_to(h.len);
                return Ok((h.tag, whole.split_off(frame::HEADER)));
            }
            _ => {
                if stream.fill(input).await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Sends a CancelRequest and waits until the node has closed the connection, that is, until the
/// cancel was delivered.
pub async fn cancel(key: &CancelKey, timeout: Duration) -> std::io::Result<()> {
    let deliver = async {
        let socket = Socket::connect(&key.host, key.port).await?;
        let (mut stream, _) =
            key.tls.wrap(socket, &key.host).await.map_err(std::io::Error::other)?;
        let mut out = Out::default();
        startup::put_cancel(out.buf(), key.pid, &key.secret);
        stream.drain(&mut out).await?;
        let mut sink = BytesMut::new();
        loop {
            match stream.fill(&mut sink).await {
                Ok(0) => return Ok(()),
                Ok(_) => sink.clear(),
                // Under TLS, PostgreSQL hangs up without a word.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    };
    tokio::time::timeout(timeout, deliver)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
