//! Requests that are tried again, unseen by the client.
//!
//! What opens a transaction is kept until its answer begins. If the shard turns out to have moved
//! meanwhile, or the connection's prepared statement to be older than its table, the request is
//! given to the session again and routed anew. Answers that say nothing of the data (ParseComplete
//! and the like) may have been passed on already; they are not passed on twice.

use super::link::{Expect, Fate, Reply};
use super::prepared::server_name;
use super::{Io, Session};
use crate::topology::Epoch;
use crate::wire::backend::{Report, report_field};
use crate::wire::{FENCED, frame, frontend};

/// A shard moves rarely; a request that meets moved shards this often meets something else.
const MAX_ATTEMPTS: u32 = 5;

/// Requests larger than this are not kept; their error is the client's.
const MAX_KEPT: usize = 64 << 10;

/// The latest request of the client, as long as it may be tried again.
#[derive(Debug, Default)]
struct Unit {
    /// The frames of the request: a Query, or a segment up to Sync.
    kept: Vec<u8>,
    /// More of it is to come.
    recording: bool,
    /// It may still be tried again.
    armed: bool,
    epoch: Option<Epoch>,
    /// How many of its answers the client has.
    answered: usize,
    /// A part of it has been carried out on several nodes.
    over: bool,
}

#[derive(Debug, Default)]
pub struct Retry {
    unit: Unit,
    /// The request before, while it is not certain that the message which begins a new one is taken.
    before: Unit,
    /// So many of its answers are not passed on, as the client has them.
    muted: usize,
    /// It will be tried again when the connection has been tidied up.
    due: bool,
    again: bool,
    attempts: u32,
    /// It has not failed: it begins again elsewhere, as a Bind has told where.
    restarted: bool,
    /// Frames of it that the session is still to be given.
    replaying: usize,
}

impl Retry {
    pub fn is_again(&self) -> bool {
        self.again
    }

    pub fn is_replaying(&self) -> bool {
        self.replaying > 0
    }

    /// How many of the answers that are due now the client has already.
    pub fn muted(&self) -> usize {
        self.muted
    }

    /// A statement of the segment under way has been carried out on several nodes, and they have forgotten it.
    pub fn went_over(&mut self) {
        self.unit.over = true;
    }

    pub fn has_gone_over(&self) -> bool {
        self.unit.recording && self.unit.over
    }

    fn start(&mut self, epoch: Option<Epoch>) {
        self.unit.kept.clear();
        self.unit.recording = true;
        self.unit.armed = true;
        self.unit.epoch = epoch;
        self.unit.answered = self.muted;
        self.unit.over = false;
    }

    /// The message with which a request was to begin was not taken: the one before is the latest.
    pub fn not_taken(&mut self) {
        std::mem::swap(&mut self.unit, &mut self.before);
    }

    /// A message was taken.
    pub fn record(&mut self, tag: u8, body: &[u8]) {
        self.replaying = self.replaying.saturating_sub(1);
        if tag == b'F' {
            (self.unit.recording, self.unit.armed) = (false, false);
        }
        if !self.unit.recording
            || !matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H')
        {
            return;
        }
        let unit = &mut self.unit;
        if unit.kept.len() + body.len() <= MAX_KEPT {
            frame::put(&mut unit.kept, tag, |b| b.extend_from_slice(body));
        } else {
            unit.armed = false;
        }
        if matches!(tag, b'Q' | b'S') {
            unit.recording = false;
        }
    }

    /// The message that would come next is answered outside of the session, or refused: the request
    /// is not tried again.
    pub fn give_up(&mut self, tag: u8) {
        self.unit.armed = false;
        self.unit.recording &= !matches!(tag, b'Q' | b'F' | b'S');
    }

    /// Something of the answer was passed on that cannot be taken back.
    pub fn disarm(&mut self) {
        self.unit.armed = false;
    }

    /// The Flush that comes now ends the request; what comes next is another one.
    pub fn end_with_flush(&mut self) {
        self.record(b'H', &[]);
        self.unit.recording = false;
    }

    /// The routing table by which the request was sent.
    pub fn sent_under(&mut self, epoch: Epoch) {
        self.unit.epoch = Some(epoch);
    }

    /// An answer without data was passed on.
    pub fn count_answer(&mut self) {
        self.unit.answered += 1;
    }

    /// Whether the next answer without data is one that the client has.
    pub fn mutes(&mut self) -> bool {
        let mutes = self.muted > 0;
        self.muted = self.muted.saturating_sub(1);
        mutes
    }

    /// The request is answered.
    pub fn settle(&mut self) {
        if !self.due {
            self.unit.armed = false;
            self.attempts = 0;
        }
    }

    /// The connection is tidied up: now it can be tried again. True if it is to be.
    pub fn tidied(&mut self) -> bool {
        let due = std::mem::take(&mut self.due);
        self.again |= due;
        due
    }
}

/// Why a request may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The shard is not, or no longer, where the routing table said.
    Moved,
    /// The statement was prepared before its table was altered.
    Stale,
}

fn why(error: &[u8], routed_anew: bool) -> Option<Why> {
    match report_field(error, b'C')? {
        code if code == FENCED.as_bytes() => Some(Why::Moved),
        // Ordinary errors too: tried again only when the routing table has changed since, so the
        // second answer is final.
        b"23514" | b"42501" if routed_anew => Some(Why::Moved),
        b"0A000" if report_field(error, b'R') == Some(b"RevalidateCachedQuery") => Some(Why::Stale),
        _ => None,
    }
}

/// What a client reads of a fence that could not be hidden from it.
pub fn moved() -> Report {
    Report::error("40001", "could not serialize access: a shard has moved during this transaction")
        .hint("The transaction might succeed if retried.")
}

/// What it reads of a circle over several nodes, as PostgreSQL words it.
pub fn deadlock() -> Report {
    Report::error("40P01", "deadlock detected")
        .detail("Transactions wait for each other on several nodes.")
        .hint("See the nodes' logs for query details.")
}

fn tags(mut frames: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let h = frame::header(frames).ok()??;
        frames = frames.get(h.len..)?;
        Some(h.tag)
    })
}

impl Session {
    /// A message of the client comes: with the first one of a request a new one is kept. True: it
    /// begins one. A lone Flush does not, nor does what belongs to a COPY.
    pub(super) fn begin_unit(&mut self, tag: u8) -> bool {
        let inside = self.link.as_ref().is_some_and(|l| l.in_segment);
        let begins = matches!(tag, b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S')
            && !self.retry.unit.recording
            && self.pending.is_empty()
            && !inside;
        if begins {
            std::mem::swap(&mut self.retry.unit, &mut self.retry.before);
            self.retry.start(self.epoch);
        }
        begins
    }

    /// Whether the request that has just failed with `error` is tried again; then the connection is
    /// being tidied up.
    pub(super) fn tries_again(&mut self, error: &[u8], now: Epoch, io: &mut Io<'_>) -> bool {
        let Some(why) = why(error, self.retry.unit.epoch != Some(now)) else { return false };
        let Some(link) = &mut self.link else { return false };
        let Some(front) = link.expects.front() else { return false };
        let simple = front.reply == Reply::Query;
        let behind = link
            .expects
            .iter()
            .skip(1)
            .skip_while(|e| !simple && e.reply != Reply::Sync)
            .skip(usize::from(!simple))
            .count();
        let stale = match (why, front.statement.clone()) {
            (Why::Moved, _) => None,
            // A client that goes by the columns it was told must learn that they have changed.
            (Why::Stale, Some(s)) if !s.described.get() => Some(link.prepared_as(&s)),
            (Why::Stale, _) => return false,
        };
        // What is kept is what has failed: nothing was taken since.
        let latest = behind == 0 && self.pending.is_empty() && !self.retry.unit.kept.is_empty();
        let open = self.retry.unit.armed && !self.is_bound() && latest;
        if !open || self.retry.attempts >= MAX_ATTEMPTS {
            return false;
        }
        if simple {
            let Some(link) = &mut self.link else { return false };
            if let Some(front) = link.expects.front_mut() {
                front.fate = Fate::Tidy;
                front.controls = None;
            }
        } else {
            self.skip_segment();
            self.tidy_sync(io);
        }
        if let Some(id) = stale {
            self.close_stale(id, io);
        }
        self.begin.clone_from(&self.opened);
        self.roll_back(io);
        self.retry.due = true;
        true
    }

    /// Parse and Describe were flushed to a node before the Bind told which one it must be: they are
    /// sent again there. False if more than that has been done.
    pub(super) fn restarts_segment(&mut self, io: &mut Io<'_>) -> bool {
        let r = &self.retry.unit;
        let open = r.recording && r.armed && !self.is_bound();
        let harmless = open && tags(&r.kept).all(|t| matches!(t, b'P' | b'D' | b'C' | b'H'));
        let inside = self.link.as_ref().is_some_and(|l| l.in_segment && l.is_quiet());
        if !harmless || !inside {
            return false;
        }
        self.tidy_sync(io);
        self.begin.clone_from(&self.opened);
        self.roll_back(io);
        self.retry.due = true;
        self.retry.restarted = true;
        true
    }

    /// Closes a prepared statement that is of no use any more.
    pub(super) fn close_stale(&mut self, id: super::StatementId, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        link.facts.prepared.remove(&id);
        frontend::put_named(io.server, b'C', b'S', &server_name(&id));
        frontend::put_empty(io.server, b'S');
        link.push(Expect::new(Reply::Close, Fate::Tidy));
        link.push(Expect::new(Reply::Sync, Fate::Tidy));
    }

    /// The frames to be given to [`Session::client`] again on a fresh link, if a retry is due.
    /// The caller passes them before anything new of the client.
    pub fn take_retry(&mut self) -> Vec<Vec<u8>> {
        if !std::mem::take(&mut self.retry.again) {
            return Vec::new();
        }
        self.counters.retries += 1;
        self.retry.attempts += 1;
        self.retry.muted = self.retry.unit.answered;
        self.retry.unit.recording = false;
        let mut rest = self.retry.unit.kept.as_slice();
        let mut frames = Vec::new();
        while let Ok(Some(h)) = frame::header(rest) {
            let Some((one, more)) = rest.split_at_checked(h.len) else { break };
            // The place is known better once the Bind has come; only the last Flush is waited for.
            if h.tag != b'H' || (more.is_empty() && !self.retry.restarted) {
                frames.push(one.to_vec());
            }
            rest = more;
        }
        debug_assert!(!frames.is_empty(), "a request is given up without an answer");
        self.retry.restarted = false;
        self.retry.replaying = frames.len();
        frames
    }
}
