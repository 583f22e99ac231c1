//! Whether a role may log in, and what its password is checked against.
//!
//! Every login asks the home node, as PostgreSQL itself does: a role made or a password changed a
//! moment ago counts, and known names take as long as unknown ones. What is asked at the same time
//! is one query, and there is one at a time, so that a storm of logins, failing ones above all,
//! costs the home node a query now and then. While the home node is away, what was learned before
//! is believed.
//!
//! A server process keeps what it took from its login: whether its role was a superuser, the
//! parameters set for it. In PostgreSQL that ends with the session; here connections outlive their
//! clients. So where a login finds that the role stands otherwise than at the login before
//! ([`crate::catalog::Role::standing`]), wherever that was changed, the role's connections are retired
//! before it is let in. Clients of a role that is gone, or that has become another one of the same
//! name, are sent away: their next transaction would have the other one's rights.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::reported::Reported;
use crate::auth::{MockSecret, Verifier};
use crate::catalog::{Role, RoleReader, Store};
use crate::pool::Pools;
use crate::telemetry::Registry;

/// Between the starts of two queries.
const APART: Duration = Duration::from_millis(5);
/// How long the home node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the home node is left alone once it did not answer.
const AWAY: Duration = Duration::from_secs(1);
/// Names in one query.
const MOST: usize = 1000;
/// No role has a longer name (NAMEDATALEN - 1).
const LONGEST: usize = 63;
/// What PostgreSQL does before it has the setting, and by default since.
const ITERATIONS: u32 = 4096;

/// What a login is checked against.
#[derive(Debug, Clone)]
pub struct About {
    /// `None`: there is no such role. The client must not be able to tell.
    pub role: Option<Role>,
    pub mock: MockSecret,
    /// Whether the home node hashes new passwords by md5.
    pub new_are_md5: bool,
}

struct Question {
    name: String,
    answer: oneshot::Sender<Result<About, String>>,
}

/// Asks about roles; the asking is done on the control runtime.
#[derive(Debug)]
pub struct Roles {
    questions: mpsc::UnboundedSender<Question>,
    mock: MockSecret,
    /// Verifiers of clear passwords in the user file, by name: made once, as they are dear.
    made: Mutex<HashMap<String, (String, Arc<Verifier>)>>,
    /// Dear checks that run at once.
    aside: Semaphore,
    changes: Arc<AtomicU64>,
}

/// What outlives the login it came from, and must not outlive a change of its role.
#[derive(Clone)]
pub struct Kept {
    pub pools: Arc<Pools>,
    pub reported: Arc<Reported>,
    pub registry: Arc<Registry>,
}

impl Kept {
    /// The role stands otherwise than it did: the next transaction has a connection that knows.
    fn renew(&self, user: &str) {
        self.reported.forget(user);
        self.pools.retire(|_, of| of == user);
    }

    /// Who has logged in as a role that is no more.
    fn send_away(&self, user: &str) {
        self.registry.clients().iter().filter(|c| c.user == user).for_each(|c| c.kill());
    }
}

/// Passwords hashed at the same time, beside the clients' threads.
const ASIDE: usize = 2;

impl Roles {
    pub fn new(control: &Handle, store: Arc<Store>, kept: Kept) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "one question a login, and logins are bounded"
        )]
        let (questions, asked) = mpsc::unbounded_channel();
        let mock = MockSecret::random(ITERATIONS);
        let changes = Arc::<AtomicU64>::default();
        let asker = Asker {
            reader: RoleReader::new(store),
            mock: mock.clone(),
            new_are_md5: false,
            known: HashMap::new(),
            kept,
            changes: changes.clone(),
            seen: 0,
            away_until: None,
        };
        control.spawn(asker.run(asked));
        Self { questions, mock, made: Mutex::default(), aside: Semaphore::new(ASIDE), changes }
    }

    /// What an unknown role is checked against while the home node has not been asked.
    pub fn mock(&self) -> MockSecret {
        self.mock.clone()
    }

    /// Roles or what is set for them were changed on all nodes. The home node shows that a moment
    /// before the others do, so it does not tell when connections to those are up to date.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What a clear password of the user file is checked against.
    pub fn verifier_of(&self, user: &str, password: &str) -> Arc<Verifier> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match made.get(user) {
            Some((of, verifier)) if of == password => verifier.clone(),
            _ => {
                let salt: [u8; 16] = rand::random();
                let verifier =
                    Arc::new(Verifier::from_password(password.as_bytes(), &salt, ITERATIONS));
                made.insert(user.to_owned(), (password.to_owned(), verifier.clone()));
                verifier
            }
        }
    }

    /// Carries out a dear check where it keeps no client waiting but those who are checked.
    pub async fn aside(&self, check: impl FnOnce() -> bool + Send + 'static) -> bool {
        // It is never closed.
        let _turn = self.aside.acquire().await;
        tokio::task::spawn_blocking(check).await.unwrap_or(false)
    }

    /// # Errors
    /// Why nothing can be said about the role at the moment.
    pub async fn ask(&self, name: &str) -> Result<About, String> {
        let (answer, answered) = oneshot::channel();
        let stopped = || "pgshunt is shutting down".to_owned();
        self.questions.send(Question { name: name.to_owned(), answer }).map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

struct Asker {
    reader: RoleReader,
    mock: MockSecret,
    new_are_md5: bool,
    /// Roles that were there when last asked for.
    known: HashMap<String, Role>,
    kept: Kept,
    /// The changes of roles that `known` is younger than.
    changes: Arc<AtomicU64>,
    seen: u64,
    away_until: Option<Instant>,
}

impl Asker {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Question>) {
        let mut questions = Vec::new();
        while asked.recv_many(&mut questions, MOST).await > 0 {
            let next = Instant::now() + APART;
            let possible = |q: &&Question| q.name.len() <= LONGEST;
            let mut names: Vec<String> =
                questions.iter().filter(possible).map(|q| q.name.clone()).collect();
            names.sort_unstable();
            names.dedup();
            let failed = self.learn(&names).await.err();
            for q in questions.drain(..) {
                let role = self.known.get(&q.name).cloned();
                let answer = match (&failed, role) {
                    (Some(why), None) => Err(why.clone()),
                    (_, role) => {
                        let new_are_md5 = self.new_are_md5;
                        Ok(About { role, mock: self.mock.clone(), new_are_md5 })
                    }
                };
                // Who has left meanwhile needs no answer.
                let _ = q.answer.send(answer);
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// These roles were `found` of those asked for, after so many changes.
    fn settle(&mut self, names: &[String], found: HashMap<String, Role>, changes: u64) {
        if changes != self.seen {
            self.seen = changes;
            self.known.values_mut().for_each(|r| r.standing.clear());
        }
        for name in names {
            let old = self.known.get(name);
            let new = found.get(name);
            if old.map(|r| &r.standing) != new.map(|r| &r.standing) {
                self.kept.renew(name);
            }
            if old.is_some() && old.map(|r| r.oid) != new.map(|r| r.oid) {
                self.kept.send_away(name);
                self.known.remove(name);
            }
        }
        self.known.extend(found);
    }

    /// Brings `known` up to date for these names.
    async fn learn(&mut self, names: &[String]) -> Result<(), String> {
        if self.away_until.is_some_and(|until| Instant::now() < until) {
            return Err("the home node is away".into());
        }
        let changes = self.changes.load(Ordering::Acquire);
        let failed = match tokio::time::timeout(PATIENCE, self.reader.read(names)).await {
            Ok(Ok(roles)) => {
                self.away_until = None;
                self.mock = self.mock.with_iterations(roles.iterations.unwrap_or(ITERATIONS));
                self.new_are_md5 = roles.new_are_md5;
                self.settle(names, roles.found, changes);
                return Ok(());
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("the home node did not answer within {PATIENCE:?}"),
        };
        tracing::warn!(error = %failed, "roles cannot be read; those known are believed");
        self.away_until = Some(Instant::now() + AWAY);
        Err(failed)
    }
}
