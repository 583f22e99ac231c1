//! Cancel keys: which client a CancelRequest means, and which server connection it holds now.
//!
//! A key is a pid of ours and a random secret, both made up by pgshunt and the same for the whole
//! life of the client, whatever server connections it goes through. A cancel is delivered to the
//! connection the client holds at that moment; until it has been delivered the connection does not
//! go to another client (`ServerConn::cancels`), or theirs would be cancelled.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use hashbrown::HashMap;
use subtle::ConstantTimeEq;

use crate::backend::login;
use crate::backend::server::CancelKey;

/// How long a CancelRequest to a node may take.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum At {
    /// Between statements: a cancel means nothing.
    Idle,
    /// Waiting for a connection or a gate: a cancel ends the wait.
    Waiting(Waker),
    Cancelled,
    /// Holding server connections.
    Linked(Vec<(CancelKey, Arc<AtomicU32>)>),
}

#[derive(Debug)]
struct Slot {
    secret: [u8; 4],
    at: Mutex<At>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// All clients that can be cancelled.
#[derive(Debug, Default)]
pub struct Cancels {
    slots: Mutex<HashMap<i32, Arc<Slot>>>,
    next: AtomicI32,
}

impl Cancels {
    /// A key for a new client; it is void when the registration is dropped.
    pub fn register(self: &Arc<Self>) -> Registration {
        let slot = Arc::new(Slot { secret: rand::random(), at: Mutex::new(At::Idle) });
        let mut slots = lock(&self.slots);
        loop {
            let pid = self.next.fetch_add(1, Ordering::Relaxed) & i32::MAX;
            if pid != 0 && !slots.contains_key(&pid) {
                slots.insert(pid, slot.clone());
                return Registration { home: self.clone(), pid, slot };
            }
        }
    }

    /// Carries out a CancelRequest. An unknown or wrong key does nothing, as in PostgreSQL.
    pub async fn deliver(&self, pid: i32, secret: &[u8]) {
        let Some(slot) = lock(&self.slots).get(&pid).cloned() else { return };
        if !bool::from(slot.secret.ct_eq(secret)) {
            return;
        }
        let targets = {
            let mut at = lock(&slot.at);
            match &*at {
                At::Idle | At::Cancelled => return,
                At::Waiting(waker) => {
                    let waker = waker.clone();
                    *at = At::Cancelled;
                    waker.wake();
                    return;
                }
                At::Linked(targets) => {
                    // Counted while the lock is held, so that the client cannot let go first.
                    for (_, pending) in targets {
                        pending.fetch_add(1, Ordering::AcqRel);
                    }
                    targets.clone()
                }
            }
        };
        for (key, pending) in targets {
            if let Err(e) = login::cancel(&key, TIMEOUT).await {
                tracing::warn!(host = %key.host, port = key.port, error = %e, "cancel request");
            }
            pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A client's key. What it points at is kept up to date by the client's task.
#[derive(Debug)]
pub struct Registration {
    home: Arc<Cancels>,
    pid: i32,
    slot: Arc<Slot>,
}

impl Registration {
    pub fn pid(&self) -> i32 {
        self.pid
    }
    pub fn secret(&self) -> i32 {
        i32::from_be_bytes(self.slot.secret)
    }

    pub fn idle(&self) {
        *lock(&self.slot.at) = At::Idle;
    }

    pub fn linked(&self, key: &CancelKey, pending: &Arc<AtomicU32>) {
        *lock(&self.slot.at) = At::Linked(vec![(key.clone(), pending.clone())]);
    }

    pub fn linked_to_all(&self, targets: Vec<(CancelKey, Arc<AtomicU32>)>) {
        *lock(&self.slot.at) = At::Linked(targets);
    }

    /// Notes that the client waits; true when the wait has been cancelled.
    pub fn poll_cancelled(&self, waker: &Waker) -> bool {
        let mut at = lock(&self.slot.at);
        match &*at {
            At::Cancelled => {
                *at = At::Idle;
                true
            }
            At::Idle | At::Waiting(_) | At::Linked(_) => {
                *at = At::Waiting(waker.clone());
                false
            }
        }
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

    #[tokio::test]
    async fn a_cancel_ends_a_wait_and_needs_the_secret() {
        let cancels = Arc::new(Cancels::default());
        let client = cancels.register();
        let secret = client.secret().to_be_bytes();
        cancels.deliver(client.pid(), &secret).await;
        assert!(!client.poll_cancelled(Waker::noop()), "between statements it means nothing");
        cancels.deliver(client.pid(), &[0; 3]).await;
        assert!(!client.poll_cancelled(Waker::noop()), "wrong secret");
        cancels.deliver(client.pid(), &secret).await;
        assert!(client.poll_cancelled(Waker::noop()));
        assert!(!client.poll_cancelled(Waker::noop()), "once");
        let pid = client.pid();
        drop(client);
        assert!(lock(&cancels.slots).get(&pid).is_none());
    }
}
