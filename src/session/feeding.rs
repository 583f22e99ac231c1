//! COPY FROM STDIN into a distributed table: the client's rows on their way to the participants.
//!
//! ```text
//!   say COPY to all ─► (turn) hear that they are ready ─► CopyInResponse to the client
//!     ─► rows: held per participant, handed over in its turn, when there are many or none follow
//!     ─► say the end to all ─► hear them, as any statement on several nodes
//! ```

use super::link::{Expect, Fate, Reply};
use super::splitting::{Protocol, Splitting};
use super::spread::Spread;
use super::stop::Stop;
use super::{Env, Flow, Io, Need, Onto, Pending, Session};
use crate::copy::CsvMark;
use crate::router::plan::Effect;
use crate::topology::NodeId;
use crate::wire::backend::Report;
use crate::wire::{ProtocolError, frame, frontend};

impl Spread {
    /// It is COPY FROM STDIN, of whose lines the nodes may speak.
    pub fn splits(&self) -> bool {
        self.splitting.is_some()
    }

    /// COPY FROM STDIN has failed; `on`: on this participant, which is heard next.
    pub fn copy_fails(&mut self, on: Option<NodeId>) {
        self.failed = true;
        let at = on.and_then(|node| self.nodes.iter().position(|n| *n == node));
        if let Some(at) = at.filter(|at| *at > self.heard) {
            self.nodes.swap(self.heard, at);
        }
        self.splitting.iter_mut().for_each(|s| s.fails(on));
    }
}

impl Session {
    fn splitting(&self) -> Option<&Splitting> {
        self.spread.as_ref()?.splitting.as_deref()
    }

    fn splitting_mut(&mut self) -> Option<&mut Splitting> {
        self.spread.as_mut()?.splitting.as_deref_mut()
    }

    /// The client's rows are being split.
    pub fn takes_rows(&self) -> bool {
        self.splitting().is_some_and(Splitting::takes_rows)
    }

    /// Where a message of COPY data goes that the client sends now.
    pub fn copy_data_goes(&self) -> Onto {
        match self.splitting() {
            Some(splitting) => splitting.goes(),
            None if self.spread.is_none() && self.streams_copy() => Onto::Node,
            None => Onto::Nobody,
        }
    }

    /// Data comes, or its end, and a COPY is pending that takes it: it must be carried out first.
    pub fn copies_pending(&self) -> bool {
        let takes = |p: &Pending| match p {
            Pending::Bind { statement, .. } => statement.plan.copies_in,
            _ => false,
        };
        self.spread.is_none()
            && self.pending.iter().any(takes)
            && self.pending.iter().any(|p| matches!(p, Pending::Execute { .. }))
    }

    /// Carries it out, before the data or their end, which is dropped if it is refused.
    pub(super) fn cut_for_copy(&mut self, tag: u8, env: &mut Env<'_>, io: &mut Io<'_>) -> Flow {
        match self.carry_out_batch(false, env, io) {
            Ok(_) => Flow::Wait(Need::Quiet),
            Err(Stop::Wait(need)) => Flow::Wait(need),
            Err(Stop::Refuse(report)) => {
                self.refuse_message(tag, *report, io);
                Flow::Done
            }
        }
    }

    /// The participant in hand waits for data.
    pub(super) fn part_copies(&mut self, body: &[u8], io: &mut Io<'_>) {
        let mark = self.csv_mark();
        let Some(spread) = self.spread.as_deref_mut() else { return };
        let Some(splitting) = spread.splitting.as_deref_mut() else { return };
        if splitting.is_ready(mark) {
            // PostgreSQL passes over a Sync that has come before the data.
            spread.ready = splitting.protocol == Protocol::Simple;
            frame::put(io.client, b'G', |b| b.extend_from_slice(body));
        }
    }

    /// What `\.` in csv means to all participants.
    fn csv_mark(&self) -> CsvMark {
        let major = |version: &str| -> Option<u32> {
            let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
            version.get(..digits)?.parse().ok()
        };
        let mark = |l: &super::Link| match l.facts.reported.get("server_version").and_then(major) {
            Some(..18) => CsvMark::Ends,
            Some(_) => CsvMark::IsData,
            None => CsvMark::Unclear,
        };
        let mut marks = self.links().map(mark);
        let first = marks.next().unwrap_or(CsvMark::Unclear);
        if marks.all(|m| m == first) { first } else { CsvMark::Unclear }
    }

    /// Data of the client's COPY has come.
    pub fn copy_rows(&mut self, data: &[u8], io: &mut Io<'_>) {
        let Some(splitting) = self.splitting_mut().filter(|s| s.takes_rows()) else { return };
        let dealt = splitting.data(data);
        self.dealt(dealt, io);
    }

    /// A message of the client's while it is asked for rows.
    ///
    /// # Errors
    /// The server would not take it within a COPY.
    pub(super) fn amid_rows(
        &mut self,
        tag: u8,
        body: &[u8],
        io: &mut Io<'_>,
    ) -> Result<Flow, ProtocolError> {
        match tag {
            b'd' => self.copy_rows(body, io),
            // PostgreSQL passes over these.
            b'H' | b'S' => {}
            b'c' | b'f' => {
                let Some(splitting) = self.splitting_mut() else { return Ok(Flow::Done) };
                let dealt = splitting.end(tag, body);
                self.dealt(dealt, io);
            }
            _ => return Err(ProtocolError("unexpected message type during COPY from stdin")),
        }
        Ok(Flow::Done)
    }

    /// The client's data has been dealt out, or cannot be.
    fn dealt(&mut self, dealt: Result<(), Report>, io: &mut Io<'_>) {
        if let Err(report) = dealt {
            self.tell(&report, io);
            if let Some(spread) = &mut self.spread {
                spread.copy_fails(None);
            }
        }
        self.feed(io);
    }

    /// Hands over what there is for the participant in hand.
    pub(super) fn feed(&mut self, io: &mut Io<'_>) {
        let Some(node) = self.node() else { return };
        let Some(splitting) = self.splitting_mut() else { return };
        let protocol = splitting.protocol;
        let Some(handed) = splitting.hand_over(node, io.server) else { return };
        let Some(link) = &mut self.link else { return };
        if handed.writes {
            // Who is given no row has nothing to prepare.
            link.effect = Effect::Writes.max(link.effect);
        }
        if !handed.ends {
            return;
        }
        link.copy_in = false;
        if !link.expects.is_empty() {
            link.push(Expect::new(Reply::Copied, Fate::Part));
        }
        if protocol == Protocol::Extended {
            frontend::put_empty(io.server, b'S');
            link.push(Expect::new(Reply::Sync, Fate::Part));
        }
    }

    /// An error or notice of the participant in hand as the client is to read it, if it speaks of a line
    /// of a COPY.
    pub(super) fn in_clients_lines(&self, said: &[u8]) -> Option<Vec<u8>> {
        self.splitting()?.at_client(self.node()?, said)
    }
}
