//! COPY data of the client's on its way through the shell: passed on to the one node as it comes, or given
//! to the session, which splits it over several.

use std::io;
use std::task::{Context, Poll};

use bytes::Buf;

use super::desk::Nothing;
use super::ending::End;
use super::relay::{Client, Copying, Event, SERVER_HIGH};
use crate::session::{Io, Need, Onto};
use crate::wire::frame;

/// A message of COPY data, without any.
const NO_DATA: &[u8] = b"d\0\0\0\x04";

impl Client {
    /// A message of COPY data begins at the front of the input. It is taken as it comes.
    pub(super) fn begin_copy_data(&mut self, len: usize) -> Result<Option<Need>, End> {
        if self.parts.session.copies_pending()
            && let (Some(need), _) = self.give(NO_DATA)?
        {
            return Ok(Some(need));
        }
        let onto = self.parts.session.copy_data_goes();
        if onto == Onto::Later {
            return Ok(Some(Need::Quiet));
        }
        let head = if onto == Onto::Rows { frame::HEADER } else { 0 };
        self.input.advance(head);
        self.copying = Copying { left: len - head, onto };
        Ok(None)
    }

    /// Takes what has come of the message that is half read.
    pub(super) fn take_copy_data(&mut self) {
        let n = self.copying.left.min(self.input.len());
        let data = &self.input[..n];
        match (self.copying.onto, &mut self.server) {
            (Onto::Node, Some(conn)) => conn.output.buf().extend_from_slice(data),
            (Onto::Rows, Some(conn)) => {
                let mut io = Io { client: self.out.buf(), server: conn.output.buf() };
                self.parts.session.copy_rows(data, &mut io);
            }
            _ => {}
        }
        self.input.advance(n);
        self.copying.left -= n;
    }

    /// A node has more to take than it has room for.
    pub(super) fn is_full(&self) -> bool {
        let mut held = self.server.iter().chain(&self.resting);
        held.any(|conn| conn.output.len() > SERVER_HIGH)
    }

    /// While the client's rows are split, whoever rests may have to say that it has failed: it is taken
    /// in hand, and heard.
    pub(super) fn hear_resting(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if !self.parts.session.takes_rows() {
            return None;
        }
        let nodes: Vec<_> = self.parts.session.nodes().skip(1).collect();
        for (at, node) in nodes.into_iter().enumerate() {
            let conn = &mut **self.resting.get_mut(at)?;
            if let Poll::Ready(filled) = conn.stream.poll_fill(cx, &mut conn.input) {
                self.turn(node);
                return self.hear(filled).or(Some(Event::Progress));
            }
        }
        None
    }

    /// The connection in hand has sent so many bytes, or none any more.
    pub(super) fn hear(&mut self, filled: io::Result<usize>) -> Option<Event> {
        let n = match filled {
            Ok(0) => return Some(Event::ServerGone(None)),
            Ok(n) => n,
            Err(e) => return Some(Event::ServerGone(Some(e))),
        };
        let conn = self.server.as_deref_mut()?;
        self.parts.stats.bytes_from_nodes.add(n as u64);
        let (session, out) = (&mut self.parts.session, &mut self.out);
        if !self.resting.is_empty() && self.chosen.swap(false, std::sync::atomic::Ordering::Relaxed)
        {
            session.is_deadlocked();
        }
        let took = self.worker.with_env(&mut Nothing, |env| {
            let mut io = Io { client: out.buf(), server: conn.output.buf() };
            session.server(&mut conn.input, env, &mut io).map(|()| env.now)
        });
        if let Ok(now) = took
            && !session.is_waiting_for_server()
            && let Some(at) = self.sent_at.take()
        {
            self.parts.stats.query.record(now.saturating_duration_since(at));
        }
        if let Err(e) = took {
            return Some(Event::ServerGone(Some(io::Error::new(io::ErrorKind::InvalidData, e))));
        }
        let why = self.parts.session.broken()?;
        Some(Event::ServerGone(Some(io::Error::other(why.to_owned()))))
    }
}
