//! What a message must wait for whatever it says; and how much a client may ask for before it is answered.
//!
//! Each request that was sent is remembered until its answer came, so a client that pipelines without
//! end behind a slow statement must be stopped: its messages are left where they are, and its socket
//! fills.

use super::block::OwnBlock;
use super::{Flow, Io, Need, Session};
use crate::wire::frontend;

/// Requests under way above which no more are taken, until half of them are answered.
const MOST: usize = 1024;
/// The same of their bytes, until all of them are answered.
const MOST_BYTES: usize = 16 << 20;

/// What was taken since nothing was under way.
#[derive(Debug, Default)]
pub(super) struct Owed {
    bytes: usize,
    full: bool,
}

impl Session {
    /// So much is under way that a message must wait for answers.
    pub(super) fn owes_enough(&mut self, tag: u8, io: &mut Io<'_>) -> bool {
        let requests = self.link.as_ref().map_or(0, |l| l.expects.len());
        if requests == 0 {
            self.owed = Owed::default();
            return false;
        }
        let Owed { bytes, full } = &mut self.owed;
        *full = match *full {
            true => requests > MOST / 2 || *bytes > MOST_BYTES,
            false => requests >= MOST || *bytes > MOST_BYTES,
        };
        // What belongs to a COPY asks for nothing, and the server may wait for it.
        let waits = *full && !matches!(tag, b'd' | b'c' | b'f' | b'X');
        if waits {
            self.ask_for_answers(io);
        }
        waits
    }

    /// A message of this length was taken.
    pub(super) fn note_owed(&mut self, bytes: usize) {
        if self.link.as_ref().is_some_and(|l| !l.expects.is_empty()) {
            self.owed.bytes += bytes;
        }
    }

    /// What becomes of a message whatever it says, if anything: it is passed over, or must wait.
    #[inline]
    pub(super) fn before_message(&mut self, tag: u8, io: &mut Io<'_>) -> Option<Flow> {
        if self.skipping && !matches!(tag, b'S' | b'X') {
            return Some(Flow::Done);
        }
        if self.waits_for_fence() && tag != b'X' {
            return Some(Flow::Wait(Need::Fence));
        }
        let ends = self.spread.is_some() || self.own_block == OwnBlock::Over;
        if ends && tag != b'X' {
            return Some(Flow::Wait(Need::Quiet));
        }
        if let Some(link) = &mut self.link {
            link.prefaced &= !link.is_quiet();
        }
        if self.is_held_by_copy(tag, io) {
            self.ask_for_answers(io);
            return Some(Flow::Wait(Need::Quiet));
        }
        if matches!(tag, b'H' | b'S')
            && let Some(link) = self.link.as_mut().filter(|l| l.copy_in)
        {
            // PostgreSQL passes over these, if the COPY still runs when they come.
            if tag == b'S' {
                frontend::put_empty(io.server, b'S');
                link.eaten += 1;
            }
            return Some(Flow::Done);
        }
        if let Some(link) = &self.link {
            match tag {
                b'd' | b'c' | b'f' | b'X' => {}
                b'S' if self.skipping => {}
                _ if link.residue.is_asked()
                    || self.is_spoiling()
                    || link.ending
                    || link.prefaced
                    || (link.opening && link.opening_full) =>
                {
                    return Some(Flow::Wait(Need::Quiet));
                }
                _ => {}
            }
        }
        self.forget_early_mail();
        self.owes_enough(tag, io).then_some(Flow::Wait(Need::Quiet))
    }
}
