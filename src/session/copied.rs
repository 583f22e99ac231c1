//! COPY TO STDOUT of a distributed table: what of each node's data the client gets ([`crate::merge`]).

use bytes::{Buf, BytesMut};

use super::relay::pass;
use super::spread::{How, Spread};
use super::{Io, Session};
use crate::merge::{DECIDING, Share};
use crate::wire::frame::{HEADER, Header};

impl Spread {
    /// It is COPY TO STDOUT, and its data is the client's.
    pub fn copies_out(&self) -> bool {
        !self.failed && matches!(&self.how, How::Merged(a) if a.copies_out())
    }

    /// What is the client's of a message of COPY data of so many bytes.
    pub fn share(&mut self, len: usize) -> Share {
        match &mut self.how {
            How::Merged(answer) => answer.share(len),
            _ => Share::All,
        }
    }
}

impl Session {
    /// A message of COPY data of the participant that is heard is in `input` behind the first `run` bytes,
    /// which are the client's. False: more of it must come first.
    pub(super) fn takes_copied(
        &mut self,
        h: Header,
        input: &mut BytesMut,
        run: &mut usize,
        io: &mut Io<'_>,
    ) -> bool {
        if input.len() - *run < h.len.min(HEADER + DECIDING) {
            return false;
        }
        let share = self.spread.as_mut().map_or(Share::All, |s| s.share(h.len - HEADER));
        let Some(link) = &mut self.link else { return false };
        let range = match share {
            Share::All | Share::Nothing => {
                (link.passing, link.passing_on) = (h.len, share == Share::All);
                return true;
            }
            Share::Part(range) => range,
        };
        pass(input, run, io);
        let here = range.end.min(input.len() - HEADER);
        let (head, length) = (range.start, range.len());
        io.client.push(b'd');
        io.client.extend_from_slice(&(length as u32 + 4).to_be_bytes());
        if here == range.end {
            io.client.extend_from_slice(&input[HEADER + head..HEADER + here]);
            input.advance(HEADER + here);
        } else {
            input.advance(HEADER + head);
        }
        // Either the rest of the part is the client's, or what stands behind it is nobody's.
        (link.passing, link.passing_on) = match here == range.end {
            true => (h.len - HEADER - here, false),
            false => (length, true),
        };
        true
    }
}
