//! The doors of the databases: PAUSE keeps clients that hold no server connection from taking one,
//! DISABLE keeps new clients out.
//!
//! A client that holds a connection goes on until it gives it back, so a paused database runs dry by
//! itself. Who waits at a door holds nothing, neither a connection nor a place in a pool's line, and
//! its patience is not measured: a pause may last as long as the maintenance it is for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

#[derive(Debug, Default)]
pub struct Doors {
    /// Whether anything is paused: all that is asked on the way of a transaction.
    any: AtomicBool,
    closed: Mutex<Closed>,
    opened: Notify,
}

#[derive(Debug, Default)]
struct Closed {
    all: bool,
    paused: BTreeSet<String>,
    disabled: BTreeSet<String>,
}

impl Doors {
    fn lock(&self) -> MutexGuard<'_, Closed> {
        // Every change is a single step.
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses a database, or all of them. False: it is paused already.
    pub fn pause(&self, database: Option<&str>) -> bool {
        let mut closed = self.lock();
        let new = match database {
            Some(name) => closed.paused.insert(name.to_owned()),
            None => !std::mem::replace(&mut closed.all, true),
        };
        self.any.store(true, Ordering::Release);
        new
    }

    /// Ends a pause; without a name, all of them. False: there is none.
    pub fn resume(&self, database: Option<&str>) -> bool {
        let mut closed = self.lock();
        let ended = match database {
            Some(name) => closed.paused.remove(name),
            None => {
                let paused = !std::mem::take(&mut closed.paused).is_empty();
                std::mem::take(&mut closed.all) || paused
            }
        };
        self.any.store(closed.all || !closed.paused.is_empty(), Ordering::Release);
        drop(closed);
        self.opened.notify_waiters();
        ended
    }

    /// Whether a client of this database must wait before it takes a connection.
    #[inline]
    pub fn is_closed(&self, database: &str) -> bool {
        self.any.load(Ordering::Acquire) && {
            let closed = self.lock();
            closed.all || closed.paused.contains(database)
        }
    }

    /// Whether anything is paused or disabled.
    pub fn is_any_closed(&self) -> bool {
        let closed = self.lock();
        closed.all || !closed.paused.is_empty() || !closed.disabled.is_empty()
    }

    /// Whether everything is paused, or this database by its name.
    pub fn is_paused(&self, database: Option<&str>) -> bool {
        let closed = self.lock();
        database.map_or(closed.all, |name| closed.paused.contains(name))
    }

    /// Told when a pause has ended. To be made before [`Doors::is_closed`] is asked.
    pub fn opened(&self) -> Notified<'_> {
        self.opened.notified()
    }

    /// Waits until the database's door is open.
    pub async fn pass(&self, database: &str) {
        loop {
            let mut opened = std::pin::pin!(self.opened());
            opened.as_mut().enable();
            if !self.is_closed(database) {
                return;
            }
            opened.await;
        }
    }

    /// Keeps new clients out, or no longer.
    pub fn set_disabled(&self, database: &str, disabled: bool) {
        let mut closed = self.lock();
        if disabled {
            closed.disabled.insert(database.to_owned());
        } else {
            closed.disabled.remove(database);
        }
    }

    pub fn is_disabled(&self, database: &str) -> bool {
        self.lock().disabled.contains(database)
    }

    /// The databases that were paused or disabled by name.
    pub fn named(&self) -> BTreeSet<String> {
        let closed = self.lock();
        closed.paused.union(&closed.disabled).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_of_one_database_or_of_all() {
        let d = Doors::default();
        assert!(d.pause(Some("a")) && !d.pause(Some("a")));
        assert!(d.is_closed("a") && !d.is_closed("b"));
        assert!(d.pause(None) && !d.pause(None));
        assert!(d.is_closed("b"));
        assert!(d.resume(Some("a")) && !d.resume(Some("a")));
        assert!(d.is_closed("a"), "all are paused");
        assert!(d.resume(None) && !d.resume(None));
        assert!(!d.is_closed("a"));
        d.pause(Some("a"));
        assert!(d.resume(None), "what is paused by name is resumed with all");
        assert!(!d.is_closed("a"));
    }

    #[tokio::test]
    async fn who_waits_at_a_door_passes_when_it_opens() {
        let d = std::sync::Arc::new(Doors::default());
        d.pass("a").await;
        d.pause(Some("a"));
        d.pass("b").await;
        let waiting = tokio::spawn({
            let d = d.clone();
            async move { d.pass("a").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        d.resume(Some("a"));
        waiting.await.unwrap();
    }
}
