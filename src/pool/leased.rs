//! A connection out of its pool. Whatever becomes of who holds it, the pool is told.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::state::Worker;
use super::{Pool, still_alive};
use crate::backend::server::ServerConn;
use crate::session::{Drawn, Facts};

/// A leased connection. Given back, it may serve others; dropped, it is closed and its place is
/// free.
pub struct Leased {
    // Closed before its place is given away.
    conn: Box<ServerConn>,
    place: Place,
}

/// The connection's place within the limit of its pool.
struct Place {
    pool: Arc<Pool>,
    taken: bool,
}

impl Leased {
    pub(super) fn new(conn: Box<ServerConn>, pool: Arc<Pool>) -> Self {
        Self { conn, place: Place { pool, taken: true } }
    }

    /// Back after its transaction; a used-up one is closed instead.
    pub fn give(self, worker: Worker, now: Instant) {
        let Self { conn, mut place } = self;
        place.taken = false;
        place.pool.give(conn, worker, now);
    }
}

impl Pool {
    /// The idle connection on which nobody but the session of this mark has drawn from sequences.
    pub fn lease_where_drawn(self: &Arc<Self>, mark: u64) -> Option<Leased> {
        let mut shared = self.lock();
        let mut idle = shared.idle.iter();
        let drawn = |conn: &ServerConn| conn.facts.as_ref().map(|f| f.drawn);
        let id = idle.find(|(_, conn)| drawn(conn) == Some(Drawn::By(mark))).map(|(id, _)| *id)?;
        if !shared.state.take_this(id) {
            return None;
        }
        let mut conn = shared.idle.remove(&id)?;
        if still_alive(&mut conn) {
            return Some(Leased::new(conn, self.clone()));
        }
        shared.state.lost(&mut Vec::new());
        None
    }

    /// What all its connections know together.
    pub(super) fn share(&self, facts: &mut Facts) {
        facts.followed = self.followed.clone();
        facts.behind = self.behind.clone();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.taken {
            self.pool.lost();
        }
    }
}

impl Deref for Leased {
    type Target = ServerConn;

    fn deref(&self) -> &ServerConn {
        &self.conn
    }
}

impl DerefMut for Leased {
    fn deref_mut(&mut self) -> &mut ServerConn {
        &mut self.conn
    }
}
