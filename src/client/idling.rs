//! A client that does nothing for longer than its parameters allow is sent away
//! ([`crate::session::Limit`]).

use std::time::{Duration, Instant};

use super::relay::Client;
use crate::wire::backend::{Report, Status};

#[derive(Debug, Default)]
pub(super) struct Idling {
    /// Since when the client has sent nothing; set by [`Client::idle_limit`], gone with its next message.
    since: Option<Instant>,
    /// Since when its open transaction has been seen.
    transaction: Option<Instant>,
}

impl Idling {
    pub(super) fn ends(&mut self) {
        self.since = None;
    }
}

impl Client {
    /// How long the client may go on doing nothing, and how it ends then.
    pub(super) fn idle_limit(&mut self) -> Option<(Duration, Report)> {
        let idling = &mut self.idling;
        match self.parts.session.status() {
            Status::Idle => idling.transaction = None,
            Status::Transaction | Status::Failed => {
                idling.transaction.get_or_insert_with(Instant::now);
            }
        }
        let limit = self.parts.session.limit()?;
        let now = Instant::now();
        let past =
            |since: Option<Instant>| since.map_or(Duration::ZERO, |at| now.duration_since(at));
        idling.since.get_or_insert(now);
        Some(limit.left(past(idling.since), past(idling.transaction)))
    }
}
