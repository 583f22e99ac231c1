//! The message in front: the one that waits for its job, and how it ends.
//!
//! It is the first of those that are to be given to the session again, or else of the client's input.

use bytes::{Buf, BytesMut};

use super::relay::{Client, READ_AHEAD};
use crate::session::Io;
use crate::wire::backend::Report;
use crate::wire::frame;

impl Client {
    /// Answers the message in front, which could not be taken, with an error.
    pub(super) fn refuse_front(&mut self, report: Report) {
        let tag = match self.again.pop_front() {
            Some(frame) => frame[0],
            None => {
                let Ok(Some(h)) = frame::header(&self.input) else { return };
                if self.input.len() < h.len {
                    return;
                }
                self.input.advance(h.len);
                self.taken(h.len);
                h.tag
            }
        };
        let mut none = Vec::new();
        let to_server = match &mut self.server {
            Some(conn) => conn.output.buf(),
            None => &mut none,
        };
        let mut io = Io { client: self.out.buf(), server: to_server };
        self.parts.session.refuse(tag, report, &mut io);
    }

    /// Takes the message in front off, as its job is done.
    pub(super) fn consume_front(&mut self) {
        if self.again.pop_front().is_some() {
            return;
        }
        if let Ok(Some(h)) = frame::header(&self.input) {
            let n = h.len.min(self.input.len());
            self.input.advance(n);
            self.taken(n);
        }
    }

    /// A message of this length has been taken off the input. What a large one needed is not kept for
    /// the next.
    pub(super) fn taken(&mut self, len: usize) {
        if len > READ_AHEAD {
            self.input = BytesMut::from(&self.input[..]);
        }
    }
}
