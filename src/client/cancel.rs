//! Cancel keys: which client a CancelRequest means, and which server connection it holds now.
//!
//! A key is a pid of ours and a random secret, both made up by pgshunt and the same for the whole
//! life of the client, whatever server connections it goes through. A cancel is delivered to the
//! connection the client holds at that moment; until it has been delivered the connection does not
//! go to another client (`ServerConn::cancels`), or theirs would be cancelled.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use futures_util::future::join_all;
use hashbrown::HashMap;
use subtle::ConstantTimeEq;

use super::overtaken::Overtaken;
use crate::backend::login;
use crate::backend::server::Cancel;
use crate::wire::FIRST_OWN_PID;
use crate::wire::startup::Minor;

/// How long a CancelRequest to a node may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a cancel means for a client at this moment. A client may wait and hold connections at once:
/// in a transaction, for a gate.
#[derive(Debug, Default)]
struct At {
    /// Waiting for a connection or a gate, or at pgshunt's own work: a cancel ends that.
    waiting: Option<Waker>,
    /// The wait was cancelled and does not know it yet.
    cancelled: bool,
    /// The server connections it holds; none between transactions, when a cancel means nothing.
    held: Vec<Arc<Cancel>>,
}

#[derive(Debug)]
struct Slot {
    secret: Box<[u8]>,
    at: Mutex<At>,
    overtaken: Overtaken,
}

impl Slot {
    fn new(secret: Box<[u8]>) -> Arc<Self> {
        Arc::new(Self { secret, at: Mutex::default(), overtaken: Overtaken::default() })
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn secret(protocol: Minor) -> Box<[u8]> {
    let long: [u8; 32] = rand::random();
    match protocol {
        // Clients of 3.0 keep no more than four bytes.
        Minor::V0 | Minor::V1 => long[..4].into(),
        Minor::V2 => long.into(),
    }
}

/// Passes a CancelRequest on, with the connection it came on.
pub type Elsewhere = Box<dyn Fn(i32, &[u8], Option<BorrowedFd<'_>>) + Send>;

/// All clients that can be cancelled.
#[derive(Default)]
pub struct Cancels {
    slots: Mutex<HashMap<i32, Arc<Slot>>>,
    next: AtomicI32,
    elsewhere: Mutex<Option<Elsewhere>>,
}

impl Cancels {
    /// A key for a new client, as long as its protocol allows; it is void when the registration is
    /// dropped.
    pub fn register(self: &Arc<Self>, protocol: Minor) -> Registration {
        let slot = Slot::new(secret(protocol));
        let mut slots = lock(&self.slots);
        loop {
            let pid = self.next.fetch_add(1, Ordering::Relaxed);
            if pid < FIRST_OWN_PID {
                // At first, or all have been through.
                self.next.store(FIRST_OWN_PID, Ordering::Relaxed);
            } else if !slots.contains_key(&pid) {
                slots.insert(pid, slot.clone());
                return Registration { home: self.clone(), pid, slot };
            }
        }
    }

    /// The key of a client that has a server process to itself, by that one's pid.
    pub fn register_as(self: &Arc<Self>, pid: i32, protocol: Minor) -> Registration {
        self.adopt(pid, &secret(protocol)).unwrap_or_else(|| self.register(protocol))
    }

    /// The key of a client that a predecessor has handed over; `None` when its pid is taken.
    pub fn adopt(self: &Arc<Self>, pid: i32, secret: &[u8]) -> Option<Registration> {
        let slot = Slot::new(secret.into());
        let mut slots = lock(&self.slots);
        if slots.contains_key(&pid) {
            return None;
        }
        slots.insert(pid, slot.clone());
        Some(Registration { home: self.clone(), pid, slot })
    }

    /// The pid that the next client will have at the earliest.
    pub fn next(&self) -> i32 {
        self.next.load(Ordering::Relaxed)
    }

    /// New clients get pids from here on.
    pub fn begin_at(&self, pid: i32) {
        self.next.store(pid, Ordering::Relaxed);
    }

    /// Cancels of clients that are not here go there: they are with our predecessor yet.
    pub fn set_elsewhere(&self, elsewhere: Option<Elsewhere>) {
        *lock(&self.elsewhere) = elsewhere;
    }

    /// Carries out a CancelRequest. An unknown or wrong key does nothing, as in PostgreSQL.
    /// `sender` is the connection it came on. The caller must not close it before: a client sends
    /// its next statement when it is closed, and that one would be cancelled.
    pub async fn deliver(&self, pid: i32, secret: &[u8], sender: Option<BorrowedFd<'_>>) {
        let Some(slot) = lock(&self.slots).get(&pid).cloned() else {
            if let Some(tell) = &*lock(&self.elsewhere) {
                tell(pid, secret, sender);
            }
            return;
        };
        if bool::from(slot.secret.ct_eq(secret)) {
            if !slot.waits() {
                slot.overtaken.caught_up().await;
            }
            slot.cancel().await;
        }
    }

    /// Cancels whatever anybody waits for: the process ends.
    pub async fn deliver_all(&self) {
        let slots: Vec<_> = lock(&self.slots).values().cloned().collect();
        join_all(slots.iter().map(|slot| slot.cancel())).await;
    }
}

impl Slot {
    fn waits(&self) -> bool {
        lock(&self.at).waiting.is_some()
    }

    async fn cancel(&self) {
        let targets = {
            let mut at = lock(&self.at);
            if let Some(waker) = at.waiting.take() {
                at.cancelled = true;
                waker.wake();
                return;
            }
            // Counted while the lock is held, so that the client cannot let go first.
            for target in &at.held {
                target.pending.fetch_add(1, Ordering::AcqRel);
            }
            at.held.clone()
        };
        // A node that does not answer keeps none of the others waiting.
        join_all(targets.into_iter().map(send)).await;
    }
}

/// Sends a node the CancelRequest.
async fn send(target: Arc<Cancel>) {
    let key = &target.key;
    match login::cancel(key, TIMEOUT).await {
        Ok(()) => {
            target.pending.fetch_sub(1, Ordering::AcqRel);
        }
        // It may arrive yet: still counted, the connection is closed and not lent again.
        Err(e) => {
            tracing::warn!(host = %key.host, port = key.port, error = %e, "cancel request");
        }
    }
}

/// A client's key. What it points at is kept up to date by the client's task.
pub struct Registration {
    home: Arc<Cancels>,
    pid: i32,
    slot: Arc<Slot>,
}

impl Registration {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn secret(&self) -> &[u8] {
        &self.slot.secret
    }

    /// The client's task rests; a cancel that has come is for what was sent before.
    pub fn rests(&self, waker: &Waker, is_empty: impl FnOnce() -> bool) {
        self.slot.overtaken.rests(waker, is_empty);
    }

    /// The client holds no server connection.
    pub fn idle(&self) {
        let mut at = lock(&self.slot.at);
        at.waiting = None;
        at.cancelled = false;
        at.held.clear();
    }

    /// The client holds these connections.
    pub fn linked(&self, held: impl IntoIterator<Item = Arc<Cancel>>) {
        let mut at = lock(&self.slot.at);
        at.held.clear();
        at.held.extend(held);
    }

    /// The client holds these connections too, until what is returned is dropped.
    pub fn lend(&self, held: impl IntoIterator<Item = Arc<Cancel>>) -> Lent {
        let lent: Vec<_> = held.into_iter().collect();
        lock(&self.slot.at).held.extend(lent.iter().cloned());
        Lent { slot: self.slot.clone(), lent }
    }

    /// Notes that the client waits; true when the wait has been cancelled.
    pub fn poll_cancelled(&self, waker: &Waker) -> bool {
        let mut at = lock(&self.slot.at);
        let cancelled = std::mem::take(&mut at.cancelled);
        at.waiting = (!cancelled).then(|| waker.clone());
        cancelled
    }

    /// The wait is over; true when it was cancelled at the last moment. What the client holds can
    /// be cancelled again.
    pub fn end_wait(&self) -> bool {
        let mut at = lock(&self.slot.at);
        at.waiting = None;
        std::mem::take(&mut at.cancelled)
    }
}

/// Connections that the client holds for one statement.
pub struct Lent {
    slot: Arc<Slot>,
    lent: Vec<Arc<Cancel>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let ours = |held: &Arc<Cancel>| self.lent.iter().any(|l| Arc::ptr_eq(l, held));
        lock(&self.slot.at).held.retain(|held| !ours(held));
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.home.slots).remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::server::CancelKey;
    use crate::config;
    use crate::net::tls::ClientTls;

    #[tokio::test]
    async fn a_cancel_ends_a_wait_and_needs_the_secret() {
        let cancels = Arc::new(Cancels::default());
        let client = cancels.register(Minor::V2);
        let secret = client.secret().to_vec();
        assert!(client.pid() >= FIRST_OWN_PID);
        cancels.deliver(client.pid(), &secret, None).await;
        assert!(!client.poll_cancelled(Waker::noop()), "between statements it means nothing");
        for wrong in [&[0; 3][..], &secret[..4], &secret[..31], &[&secret[..], b"x"].concat()] {
            cancels.deliver(client.pid(), wrong, None).await;
            assert!(!client.poll_cancelled(Waker::noop()), "wrong secret");
        }
        let mut last_bit = secret.clone();
        last_bit[31] ^= 1;
        cancels.deliver(client.pid(), &last_bit, None).await;
        assert!(!client.poll_cancelled(Waker::noop()), "every byte counts");
        cancels.deliver(client.pid(), &secret, None).await;
        assert!(client.poll_cancelled(Waker::noop()));
        assert!(!client.poll_cancelled(Waker::noop()), "once");
        assert!(!client.end_wait());
        cancels.deliver(client.pid(), &secret, None).await;
        assert!(!client.end_wait(), "the wait was over");
        let pid = client.pid();
        drop(client);
        assert!(lock(&cancels.slots).get(&pid).is_none());
    }

    /// A node that takes one CancelRequest and gives its key.
    async fn node() -> (Arc<Cancel>, tokio::task::JoinHandle<Vec<u8>>) {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = config::Tls { nodes: config::NodeTls::Disable, ..config::Tls::default() };
        let tls = ClientTls::load(&tls).unwrap();
        let key =
            CancelKey { host: "127.0.0.1".into(), port, pid: 7, secret: (1..=32).collect(), tls };
        let took = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 44];
            tcp.read_exact(&mut request).await.unwrap();
            request
        });
        (Arc::new(Cancel { key, pending: Arc::default() }), took)
    }

    #[tokio::test]
    async fn a_held_client_is_cancelled_where_it_waits_and_then_where_it_is_linked() {
        let cancels = Arc::new(Cancels::default());
        let client = cancels.register(Minor::V0);
        let secret = client.secret().to_vec();
        assert_eq!(secret.len(), 4);
        let (node, took) = node().await;
        client.linked([node.clone()]);
        assert!(!client.poll_cancelled(Waker::noop()));
        cancels.deliver(client.pid(), &secret, None).await;
        assert!(client.poll_cancelled(Waker::noop()), "the wait, not the connection");
        assert!(!client.end_wait());
        cancels.deliver(client.pid(), &secret, None).await;
        let took = took.await.unwrap();
        assert_eq!(took[..4], [0, 0, 0, 44], "a key of 32 bytes");
        assert_eq!(took[8..16], [0, 0, 0, 7, 1, 2, 3, 4], "the link is known again");
        assert_eq!(node.pending.load(Ordering::Acquire), 0);
        // Nobody listens any more: whether it arrives is not known.
        cancels.deliver(client.pid(), &secret, None).await;
        assert_eq!(node.pending.load(Ordering::Acquire), 1);
        client.idle();
        cancels.deliver(client.pid(), &secret, None).await;
        assert_eq!(node.pending.load(Ordering::Acquire), 1);
    }
}
