//! The client proves who it is, in the way the configuration asks of it.
//!
//! The words and SQLSTATEs are those of PostgreSQL's auth.c. A role that does not exist is asked for
//! what roles of its kind are asked for, with as much work, and fails at the end.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use pgwire::messages::startup::Authentication;

use super::login::Failure;
use super::roles::About;
use super::worker::Worker;
use crate::auth::{
    self, Account, AuthError, ClientKeys, Connection, Md5Secret, Nonce, Origin, ScramServer,
    StoredSecret,
};
use crate::backend::login::Credentials;
use crate::config::{AuthMethod, Config};
use crate::net::tls::common_name;
use crate::net::{Out, Stream, socket};
use crate::telemetry::ClientAddr;
use crate::wire::backend::Report;
use crate::wire::frontend::Reader;
use crate::wire::startup::Startup;
use crate::wire::{ProtocolError, frame, message};

/// A password or SASL message; what is longer is no login (PG_MAX_AUTH_TOKEN_LENGTH).
const MAX_PASSWORD: usize = 64 << 10;

pub struct Client<'a> {
    pub worker: &'a Rc<Worker>,
    pub stream: &'a mut Stream,
    pub input: &'a mut BytesMut,
    pub out: &'a mut Out,
    pub startup: &'a Startup,
    pub addr: ClientAddr,
    /// What SCRAM-SHA-256-PLUS binds to, on a connection under TLS.
    pub binding: Option<Vec<u8>>,
    /// No statement of it goes to a node: it need not be a role.
    pub console: bool,
    /// What the home node has said of the role, once it was asked.
    pub asked: Option<Result<About, String>>,
}

impl Client<'_> {
    /// Gives what logs in to the nodes as this client.
    pub async fn authenticate(mut self) -> Result<Credentials, Failure> {
        let config = self.worker.shared.config.load_full();
        let user = &self.startup.user;
        let proven = match self.method(&config).await? {
            AuthMethod::Reject => return Err(self.rejected("pg_hba.conf rejects").into()),
            AuthMethod::Trust => self.known_credentials(&config).await,
            AuthMethod::Peer => {
                self.check_peer().await?;
                self.known_credentials(&config).await
            }
            AuthMethod::Cert => {
                self.check_certificate()?;
                self.known_credentials(&config).await
            }
            method @ (AuthMethod::ScramSha256 | AuthMethod::Md5 | AuthMethod::Password) => {
                let (stored, about) = match config.auth.users.get(user) {
                    Some(text) => (StoredSecret::of_file(text), None),
                    None => {
                        let about = self.ask().await?;
                        (about.role.as_ref().and_then(|r| r.secret.clone()), Some(about))
                    }
                };
                self.check_password(method, stored, about).await?
            }
        };
        self.check_role().await?;
        let service = *user == config.cluster.service_user;
        match (&config.cluster.service_password, service, proven) {
            (Some(password), true, _) => Ok(Credentials::Password(password.clone())),
            // Another client of this role may have left more.
            (_, _, Credentials::None) => {
                Ok(self.worker.shared.pools.credentials_of(user).unwrap_or(Credentials::None))
            }
            (_, _, proven) => Ok(proven),
        }
    }

    async fn about(&mut self) -> Result<About, String> {
        if self.asked.is_none() {
            self.asked = Some(self.worker.shared.roles.ask(&self.startup.user).await);
        }
        self.asked.clone().unwrap_or_else(|| Err("nobody was asked".into()))
    }

    async fn ask(&mut self) -> Result<About, Report> {
        self.about()
            .await
            .map_err(|e| Report::fatal("57P03", "cannot check passwords at the moment").detail(e))
    }

    async fn method(&mut self, config: &Config) -> Result<AuthMethod, Failure> {
        let rules = &config.auth.rules;
        if rules.is_empty() {
            return Ok(config.auth.method);
        }
        // Without knowing the groups a rule that rejects one could be passed by.
        let groups = match auth::look_at_groups(rules) {
            true => self.ask().await?.role.map(|r| r.groups).unwrap_or_default(),
            false => Vec::new(),
        };
        let connection = Connection {
            origin: match self.addr {
                ClientAddr::Tcp(addr) => Origin::Host { ip: addr.ip(), tls: self.stream.is_tls() },
                ClientAddr::Unix => Origin::Local,
            },
            database: &self.startup.database,
            user: &self.startup.user,
            physical: self.is_physical(),
            groups: &groups,
        };
        let method = auth::method(rules, &connection);
        method.ok_or_else(|| self.rejected("no pg_hba.conf entry for").into())
    }

    fn is_physical(&self) -> bool {
        self.startup.replication.as_deref().is_some_and(|r| r != "database")
    }

    /// In PostgreSQL's words, which drivers and people look for.
    fn rejected(&self, how: &str) -> Report {
        let explicit = how.ends_with("rejects");
        let host = match self.addr {
            ClientAddr::Tcp(addr) => addr.ip().to_canonical().to_string(),
            ClientAddr::Unix => "[local]".to_owned(),
        };
        let encryption = if self.stream.is_tls() { "SSL encryption" } else { "no encryption" };
        let (what, database) = match (self.is_physical(), explicit) {
            (true, true) => (" replication connection for", String::new()),
            (true, false) => (" replication connection from", String::new()),
            (false, true) => (" connection for", self.database()),
            (false, false) => ("", self.database()),
        };
        let user = &self.startup.user;
        let message =
            format!("{how}{what} host \"{host}\", user \"{user}\"{database}, {encryption}");
        Report::fatal("28000", message).hint("The rules are auth.rules in pgshunt's configuration.")
    }

    fn database(&self) -> String {
        format!(", database \"{}\"", self.startup.database)
    }

    fn failed(&self, what: &str) -> Report {
        let user = &self.startup.user;
        Report::fatal("28000", format!("{what} authentication failed for user \"{user}\""))
    }

    fn wrong_password(&self) -> Report {
        Report { sqlstate: "28P01".into(), ..self.failed("password") }
    }

    /// Who has not given us a password may have one in the user file; an md5 secret is known anyway.
    async fn known_credentials(&mut self, config: &Config) -> Credentials {
        let user = &self.startup.user;
        let secret = match config.auth.users.get(user) {
            Some(text) => StoredSecret::of_file(text),
            None => self.about().await.ok().and_then(|a| a.role).and_then(|r| r.secret),
        };
        match secret {
            Some(StoredSecret::Clear(password)) => Credentials::Password(password),
            Some(StoredSecret::Md5(secret)) => Credentials::Md5(secret),
            Some(StoredSecret::Scram(_)) | None => Credentials::None,
        }
    }

    /// The role must be one, and one that may log in, as far as the home node can be asked.
    async fn check_role(&mut self) -> Result<(), Report> {
        let user = &self.startup.user;
        let Ok(about) = self.about().await else { return Ok(()) };
        let problem = match about.role {
            None if self.console => return Ok(()),
            None => "does not exist",
            Some(role) if role.can_login => {
                let database = &self.startup.database;
                if self.is_physical() || !role.barred.contains(database) {
                    return Ok(());
                }
                let message = format!("permission denied for database \"{database}\"");
                return Err(
                    Report::fatal("42501", message).detail("User does not have CONNECT privilege.")
                );
            }
            Some(_) => "is not permitted to log in",
        };
        Err(Report::fatal("28000", format!("role \"{user}\" {problem}")))
    }

    async fn check_peer(&self) -> Result<(), Report> {
        let uid = match self.stream.socket().peer_uid() {
            Ok(uid) => uid,
            Err(error) => {
                tracing::debug!(%error, "peer");
                return Err(self.failed("Peer"));
            }
        };
        // The system may ask a directory server.
        let name = tokio::task::spawn_blocking(move || socket::user_name(uid)).await;
        match name {
            Ok(Some(name)) if name == self.startup.user => Ok(()),
            _ => Err(self.failed("Peer")),
        }
    }

    fn check_certificate(&self) -> Result<(), Report> {
        let Some(certificate) = self.stream.peer_certificate() else {
            return Err(Report::fatal("28000", "connection requires a valid client certificate"));
        };
        match common_name(certificate) {
            Some(name) if name == self.startup.user => Ok(()),
            _ => Err(self.failed("certificate")),
        }
    }

    async fn check_password(
        &mut self,
        method: AuthMethod,
        stored: Option<StoredSecret>,
        about: Option<About>,
    ) -> Result<Credentials, Failure> {
        // Who is unknown is asked as most roles are.
        let by_md5 = match (&stored, &about) {
            (Some(StoredSecret::Md5(_) | StoredSecret::Clear(_)), _) => true,
            (Some(StoredSecret::Scram(_)), _) => false,
            (None, about) => about.as_ref().is_some_and(|a| a.new_are_md5),
        };
        match method {
            AuthMethod::Password => self.clear(stored, about).await,
            AuthMethod::Md5 if by_md5 => {
                let secret = match &stored {
                    Some(StoredSecret::Md5(secret)) => Some(secret.clone()),
                    Some(StoredSecret::Clear(password)) => {
                        Some(Md5Secret::of(&self.startup.user, password.as_bytes()))
                    }
                    Some(StoredSecret::Scram(_)) | None => None,
                };
                let secret = self.md5(secret).await?;
                Ok(match stored {
                    Some(StoredSecret::Clear(password)) => Credentials::Password(password),
                    _ => Credentials::Md5(secret),
                })
            }
            _ => {
                let keys = self.scram(stored.as_ref(), about.as_ref()).await?;
                Ok(match stored {
                    Some(StoredSecret::Clear(password)) => Credentials::Password(password),
                    _ => Credentials::Keys(keys),
                })
            }
        }
    }

    async fn scram(
        &mut self,
        stored: Option<&StoredSecret>,
        about: Option<&About>,
    ) -> Result<ClientKeys, Failure> {
        let user = self.startup.user.as_str();
        let roles = &self.worker.shared.roles;
        let verifier = match stored {
            Some(StoredSecret::Scram(verifier)) => Some(Arc::new(verifier.clone())),
            Some(StoredSecret::Clear(password)) => Some(roles.verifier_of(user, password)),
            Some(StoredSecret::Md5(_)) | None => None,
        };
        // A role of the user file whose secret is md5 has asked nobody.
        let own = roles.mock();
        let mock = about.map_or(&own, |a| &a.mock);
        let account = match &verifier {
            Some(verifier) => Account::Known(verifier),
            None => Account::Unknown { user: user.as_bytes(), secret: mock },
        };
        let mut scram = ScramServer::new(account, Nonce::random(), self.binding.take());
        let mechanisms = scram.mechanisms().iter().map(|m| (*m).to_owned()).collect();
        message::put(self.out.buf(), &Authentication::SASL(mechanisms));
        self.stream.drain(self.out).await?;

        let first = self.message().await?;
        let mut r = Reader(&first);
        let mechanism = r.cstr()?;
        let len = r.i32()?;
        let data = r.bytes(usize::try_from(len).map_err(|_| ProtocolError("no SASL response"))?)?;
        let challenge = scram.on_initial(mechanism, data).map_err(|e| self.scram_failed(&e))?;
        message::put(self.out.buf(), &Authentication::SASLContinue(challenge.into()));
        self.stream.drain(self.out).await?;

        let proof = self.message().await?;
        let success = scram.on_final(&proof).map_err(|e| self.scram_failed(&e))?;
        message::put(self.out.buf(), &Authentication::SASLFinal(success.server_final.into()));
        Ok(success.keys)
    }

    fn scram_failed(&self, e: &AuthError) -> Report {
        match e {
            AuthError::WrongPassword => self.wrong_password(),
            other => Report::fatal(other.sqlstate(), other.to_string()),
        }
    }

    async fn md5(&mut self, secret: Option<Md5Secret>) -> Result<Md5Secret, Failure> {
        let salt: [u8; 4] = rand::random();
        message::put(self.out.buf(), &Authentication::MD5Password(salt.to_vec()));
        self.stream.drain(self.out).await?;
        let answer = self.password().await?;
        // Nobody's: as long in being compared as anybody's.
        let nobodys = || Md5Secret::of("", &rand::random::<[u8; 16]>());
        let known = secret.is_some();
        let secret = secret.unwrap_or_else(nobodys);
        if secret.is_answered(salt, &answer) && known {
            Ok(secret)
        } else {
            Err(self.wrong_password().into())
        }
    }

    async fn clear(
        &mut self,
        stored: Option<StoredSecret>,
        about: Option<About>,
    ) -> Result<Credentials, Failure> {
        if !self.stream.is_tls() && !self.stream.socket().is_unix() {
            let message = "a password in clear is taken only under TLS or on a Unix socket";
            return Err(Report::fatal("28000", message)
                .hint("Connect with sslmode=require, or set another auth.method.")
                .into());
        }
        message::put(self.out.buf(), &Authentication::CleartextPassword);
        self.stream.drain(self.out).await?;
        let password = self.password().await?;
        let known = stored.is_some();
        let user = self.startup.user.clone();
        let roles = &self.worker.shared.roles;
        let stored = stored.unwrap_or_else(|| {
            let mock = about.map_or_else(|| roles.mock(), |a| a.mock);
            StoredSecret::Scram(mock.verifier(user.as_bytes()))
        });
        let given = password.to_vec();
        let fits = roles.aside(move || stored.is_password(&user, &given)).await;
        if !fits || !known {
            return Err(self.wrong_password().into());
        }
        // What is no text cannot be given to a node; it is only proven.
        Ok(String::from_utf8(password.to_vec()).map_or(Credentials::None, Credentials::Password))
    }

    /// A password, or what was made of it.
    async fn password(&mut self) -> Result<BytesMut, Failure> {
        let mut message = self.message().await?;
        if message.iter().position(|b| *b == 0) != Some(message.len().wrapping_sub(1)) {
            return Err(ProtocolError("invalid password packet size").into());
        }
        message.truncate(message.len() - 1);
        if message.is_empty() {
            return Err(Report::fatal("28P01", "empty password returned by client").into());
        }
        Ok(message)
    }

    async fn message(&mut self) -> Result<BytesMut, Failure> {
        loop {
            if let Some(h) = frame::header(self.input)? {
                if h.tag != b'p' || h.len > MAX_PASSWORD {
                    return Err(ProtocolError("expected a password response").into());
                }
                if self.input.len() >= h.len {
                    let mut whole = self.input.split_to(h.len);
                    return Ok(whole.split_off(frame::HEADER));
                }
            }
            if self.stream.fill(self.input).await? == 0 {
                return Err(Failure::Gone);
            }
        }
    }
}
