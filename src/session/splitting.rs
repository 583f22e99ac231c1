//! What a COPY FROM STDIN into a distributed table makes of the client's rows: for each participant of the
//! statement those that are to be handed over to it, and what it is to be told next.
//!
//! A row that cannot be placed, an error of any participant, and CopyFail end the COPY on all of them. What
//! a node says of a line is of a line of its own; the client reads the number that the line has in its data.

use std::sync::Arc;

use super::Env;
use crate::copy::{CsvMark, Form, Layout, Lines, Piece, Splitter, To, Unplaced};
use crate::router::plan::{CopyIn, Kind, Merge, Plan};
use crate::topology::{GroupId, NodeId, RoutingTable};
use crate::wire::backend::{Report, report_field_at};
use crate::wire::frame;

/// So many bytes for one participant are handed over at once.
const MANY: usize = 32 << 10;

/// A participant, and what it is to be told.
#[derive(Debug)]
struct Part {
    node: NodeId,
    rows: Vec<u8>,
    lines: Lines,
    /// It has been given a line, by which it knows how lines end.
    begun: bool,
    /// It has been given a row.
    writes: bool,
    /// It is told nothing any more: it has been told the end, or has failed.
    over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// The participants get ready; so many are.
    Starting(usize),
    /// The client sends rows.
    Rows,
    /// The participants are told this: that there is no more, or that the COPY fails.
    Ending { tag: u8, body: Vec<u8> },
}

/// What becomes of a message of COPY data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// It goes to the node as it is.
    Node,
    /// Its rows are the session's to split: [`Session::copy_rows`].
    Rows,
    /// It is late, and dropped.
    Nobody,
    /// The nodes will tell whether they want it.
    Later,
}

/// What a participant has been given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handed {
    /// It has been given a row, now or before.
    pub writes: bool,
    pub ends: bool,
}

/// What a COPY makes of the client's data.
#[derive(Debug)]
pub(super) struct Splitting {
    copy: Arc<CopyIn>,
    pub protocol: Protocol,
    group: GroupId,
    /// Where the shards are. They stay there, since the transaction is within the group's gate.
    routes: Arc<RoutingTable>,
    /// As the nodes call it when they speak of a line.
    table: String,
    parts: Vec<Part>,
    stage: Stage,
    splitter: Splitter,
    /// Who was given the first line.
    first: Option<usize>,
    /// The line at which the client has given up.
    given_up: Option<u64>,
}

/// The protocol by which the COPY was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Simple,
    /// Behind its end, or its error, each node is sent Sync.
    Extended,
}

impl Splitting {
    /// What is to be done with the rows of this plan, if it is COPY FROM STDIN.
    pub fn of(
        plan: &Plan,
        (group, nodes): (GroupId, &[NodeId]),
        protocol: Protocol,
        env: &Env<'_>,
    ) -> Option<Box<Self>> {
        let Kind::Every { merge: Merge::CopyIn(copy), .. } = &plan.kind else { return None };
        let part = |&node| Part {
            node,
            rows: Vec::new(),
            lines: Lines::default(),
            begun: false,
            writes: false,
            over: false,
        };
        Some(Box::new(Self {
            copy: copy.clone(),
            protocol,
            group,
            routes: env.routes.clone(),
            table: plan.tables.first().cloned().unwrap_or_default(),
            parts: nodes.iter().map(part).collect(),
            stage: Stage::Starting(0),
            splitter: Splitter::new(copy.form.clone(), CsvMark::Ends, env.max_message),
            first: None,
            given_up: None,
        }))
    }

    /// Nobody is ready yet: what the first participant answers is the client's.
    pub fn is_first(&self) -> bool {
        self.stage == Stage::Starting(0)
    }

    /// The participant is not there any more.
    pub fn forgets(&mut self, node: NodeId) {
        self.parts.iter_mut().filter(|p| p.node == node).for_each(|p| p.over = true);
    }

    /// Whose turn it is, if it is not that of who is heard to the end; within, `None` is nobody's.
    pub fn turn(&self) -> Option<Option<NodeId>> {
        let wanted = self.wants();
        (wanted.is_some() || self.takes_rows()).then_some(wanted)
    }

    /// The participant that has something to say, or is to be told something.
    fn wants(&self) -> Option<NodeId> {
        let mut parts = self.parts.iter().filter(|p| !p.over);
        let part = match &self.stage {
            Stage::Starting(ready) => self.parts.get(*ready),
            Stage::Rows => parts.find(|p| p.rows.len() >= MANY),
            Stage::Ending { .. } => parts.next(),
        };
        part.map(|p| p.node)
    }

    /// The client is asked for rows.
    pub fn takes_rows(&self) -> bool {
        self.stage == Stage::Rows
    }

    /// Where a message of COPY data goes that the client sends now.
    pub fn goes(&self) -> Onto {
        match self.stage {
            Stage::Starting(_) => Onto::Later,
            Stage::Rows => Onto::Rows,
            Stage::Ending { .. } => Onto::Nobody,
        }
    }

    /// Another participant is ready. True: it was the last one, and rows may come. `mark`: what `\.` in csv
    /// means to all of them.
    pub fn is_ready(&mut self, mark: CsvMark) -> bool {
        let Stage::Starting(ready) = &mut self.stage else { return false };
        *ready += 1;
        let all = *ready == self.parts.len();
        if all {
            self.stage = Stage::Rows;
            self.splitter.marked(mark);
        }
        all
    }

    /// More of the client's data.
    ///
    /// # Errors
    /// A row cannot be placed.
    pub fn data(&mut self, data: &[u8]) -> Result<(), Report> {
        self.splitter.push(data);
        self.deal()
    }

    /// The client's data ends by CopyDone or CopyFail.
    ///
    /// # Errors
    /// The last row cannot be placed.
    pub fn end(&mut self, tag: u8, body: &[u8]) -> Result<(), Report> {
        match tag {
            b'c' => self.splitter.end(),
            _ => self.given_up = Some(self.splitter.at_line()),
        }
        self.deal()?;
        self.stage = Stage::Ending { tag, body: body.to_vec() };
        Ok(())
    }

    fn deal(&mut self) -> Result<(), Report> {
        self.deal_out().map_err(|why| {
            let line = self.splitter.at_line();
            refusal(why, &self.copy.form).context(format!("COPY {}, line {line}", self.table))
        })
    }

    /// Writes what there is for this participant, and its end.
    pub fn hand_over(&mut self, node: NodeId, out: &mut Vec<u8>) -> Option<Handed> {
        let ending = match &self.stage {
            Stage::Starting(_) => return None,
            Stage::Rows => None,
            Stage::Ending { tag, body } => Some((*tag, body)),
        };
        let part = self.parts.iter_mut().find(|p| p.node == node && !p.over)?;
        if !part.rows.is_empty() {
            frame::put(out, b'd', |b| b.extend_from_slice(&part.rows));
            part.rows.clear();
            part.rows.shrink_to(2 * MANY);
        }
        if let Some((tag, body)) = ending {
            part.over = true;
            frame::put(out, tag, |b| b.extend_from_slice(body));
        }
        Some(Handed { writes: part.writes, ends: ending.is_some() })
    }

    /// Gives each participant its part of what has come.
    fn deal_out(&mut self) -> Result<(), Unplaced> {
        let Self { splitter, parts, first, routes, group, .. } = self;
        let Some(group) = routes.group(*group) else { return Ok(()) };
        while let Some(piece) = splitter.piece()? {
            if group.is_reference() {
                for part in parts.iter_mut() {
                    part.take(&piece);
                    part.writes = true;
                }
                first.get_or_insert(0);
                continue;
            }
            let to = match piece.to {
                To::All => {
                    parts.iter_mut().for_each(|p| p.take(&piece));
                    if piece.lines > 0 {
                        first.get_or_insert(0);
                    }
                    continue;
                }
                To::Hash(hash) => {
                    let node = group.shard_of_hash(hash).node;
                    parts.iter().position(|p| p.node == node).unwrap_or(0)
                }
                To::Any | To::First => first.unwrap_or(0),
            };
            first.get_or_insert(to);
            if let Some(part) = parts.get_mut(to) {
                part.take(&piece);
                part.writes = true;
            }
        }
        Ok(())
    }

    /// The client reads an error: nothing of it is to be left, and nobody is given any more rows.
    /// `failed`: who has said it, if a participant has.
    pub fn fails(&mut self, failed: Option<NodeId>) {
        let simple = self.protocol == Protocol::Simple;
        for part in &mut self.parts {
            part.rows = Vec::new();
            // By the extended protocol it waits for Sync.
            part.over |= Some(part.node) == failed && simple;
        }
        if !matches!(self.stage, Stage::Ending { .. }) {
            self.stage = Stage::Ending { tag: b'f', body: b"another node has failed\0".to_vec() };
        }
    }

    /// What a node says, with the number of the client's line in place of its own; `None`: it speaks of
    /// no line.
    pub fn at_client(&self, node: NodeId, said: &[u8]) -> Option<Vec<u8>> {
        let context = report_field_at(said, b'W')?;
        let text = said.get(context.clone())?;
        let number = line_number(text, &self.table)?;
        let own: u64 = std::str::from_utf8(text.get(number.clone())?).ok()?.parse().ok()?;
        let lines = &self.parts.iter().find(|p| p.node == node)?.lines;
        let (from, to) = (context.start + number.start, context.start + number.end);
        let line = self.given_up.or_else(|| lines.at_client(own, self.splitter.lines()));
        // What is not known any more is so told.
        let line = line.map_or_else(|| "?".to_owned(), |n| n.to_string());
        Some([said.get(..from)?, line.as_bytes(), said.get(to..)?].concat())
    }
}

impl Part {
    fn take(&mut self, piece: &Piece<'_>) {
        let lines = if self.begun { piece.lines } else { piece.first_lines };
        self.begun |= lines > 0;
        self.lines.note(lines, piece.bytes.len(), piece.behind);
        self.rows.extend_from_slice(piece.bytes);
    }
}

/// Where the line's number stands in a context: `COPY t, line 7`, in the words of whatever language.
fn line_number(context: &[u8], table: &str) -> Option<std::ops::Range<usize>> {
    let head = format!("COPY {table}, ");
    let mut start = 0;
    for line in context.split(|b| *b == b'\n') {
        if let Some(rest) = line.strip_prefix(head.as_bytes()) {
            let from = rest.iter().position(u8::is_ascii_digit)?;
            let digits = rest.get(from..)?.iter().take_while(|b| b.is_ascii_digit()).count();
            let from = start + head.len() + from;
            return Some(from..from + digits);
        }
        start += line.len() + 1;
    }
    None
}

/// Why a row cannot be given to any node.
fn refusal(why: Unplaced, form: &Form) -> Report {
    match why {
        Unplaced::Value(ty, e) => crate::router::unreadable(ty, e),
        Unplaced::Blanks => crate::router::blank_ended(),
        Unplaced::Default => Report::error(
            "0A000",
            "COPY into a distributed table cannot take the default of a distribution column",
        )
        .hint("Give its value in the data."),
        Unplaced::TooLong(most) => {
            let what = if form.layout == Layout::Binary { "row" } else { "line" };
            Report::error("54000", format!("a {what} of COPY data is too long"))
                .detail(format!("limits.max_message allows {most} bytes."))
        }
        Unplaced::Mark => Report::error(
            "0A000",
            "what \"\\.\" in csv data means depends on the version of the node",
        )
        .detail("The nodes of this table are of different versions, before and from 18 on.")
        .hint("Quote it, or leave it out."),
    }
}
