//! A statement of which one node makes the answer, of rows that all of them have sent.
//!
//! ```text
//!   each node:  Parse and Describe (the client's own text)      whose errors and columns are the client's
//!               Parse, Bind, Describe, Execute (its part), Sync  rows in binary: merge::Gathered
//!   one node:   Parse, Bind, Describe, Execute (the last), Sync  rows as the client wants them
//! ```
//!
//! What is collected ([`Gather::Collect`]) the first node alone describes, and it carries out the last step:
//! it may be the only one that knows all tables of the statement.

use std::rc::Rc;
use std::sync::Arc;

use super::link::Done;
use super::request::{Request, Segment};
use crate::merge::{
    Answer, Column, Gather, Gathered, Hold, Written, columns, differ, malformed, names,
};
use crate::router::plan::{Look, Plan};
use crate::topology::NodeId;
use crate::wire::backend::{self, Report};
use crate::wire::{frame, frontend};

/// What the client is answered before the first row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Parsed,
    /// ParameterDescription and the columns.
    Statement,
    Bound,
    /// The columns, in the formats that Bind asks for; or that there are none.
    Portal,
    /// The same, to a query: that there are none is not said.
    Columns,
    Closed,
}

/// A statement as the client has sent it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub text: Vec<u8>,
    /// The types of its parameters.
    pub types: Vec<u8>,
    /// What stands behind the names of its Bind.
    pub bind: Vec<u8>,
    pub told: Vec<Told>,
    /// What the statement does to the session when it has completed.
    pub controls: Option<Rc<[Done]>>,
    /// The row limit of Execute; 0: none.
    pub limit: u64,
    pub hold: Hold,
}

impl Asked {
    /// A query of the simple protocol.
    pub fn of_query(text: &[u8], controls: &Option<Vec<Done>>) -> Self {
        let (types, bind) = (Vec::new(), PLAIN_BIND.to_vec());
        Self {
            text: text.to_vec(),
            types,
            bind,
            told: vec![Told::Columns],
            controls: controls.clone().map(Into::into),
            limit: 0,
            hold: Hold::Nothing,
        }
    }
}

/// The Bind of a query without parameters, whose result is text.
pub(super) const PLAIN_BIND: [u8; 6] = [0; 6];

/// What is known of the columns of the client's own statement.
#[derive(Debug)]
enum Described {
    NotYet,
    /// The body of RowDescription.
    Columns(Vec<u8>),
    /// It returns no rows: it declares a cursor, or is COPY. Its query's own RowDescription, where that is asked.
    NoColumns(Vec<u8>),
}

/// What the last step's answer is.
#[derive(Debug)]
pub(super) enum Last {
    Rows(Box<Answer>),
    /// That it was done: a cursor is declared.
    Done,
}

#[derive(Debug)]
pub(super) struct Gathering {
    gather: Gather,
    plan: Arc<Plan>,
    asked: Asked,
    /// The body of ParameterDescription of the client's own statement.
    parameters: Vec<u8>,
    described: Described,
    rows: Option<Gathered>,
    /// The most that is kept of them, in bytes.
    most: usize,
}

/// What a statement has had moved to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub bytes: usize,
    /// The tables that it names.
    pub tables: String,
}

impl Gathering {
    pub fn new(gather: Gather, plan: Arc<Plan>, mut asked: Asked) -> Self {
        // A SELECT of such rows does nothing to the session.
        asked.controls.take_if(|_| plan.declares().is_none());
        Self {
            gather,
            plan,
            asked,
            parameters: Vec::new(),
            described: Described::NotYet,
            rows: None,
            most: 0,
        }
    }

    /// No more than so many bytes are kept of the rows.
    pub fn is_bounded_by(&mut self, most: usize) {
        self.most = most;
    }

    /// What has been moved, in bytes.
    pub fn moved(&self) -> usize {
        self.rows.as_ref().map_or(0, Gathered::bytes)
    }

    /// The same, if it is so much that it is told of.
    pub fn moved_much(&self) -> Option<Moved> {
        let bytes = self.moved();
        (bytes > self.most / 4).then(|| Moved { bytes, tables: self.plan.tables.join(", ") })
    }

    /// What so many nodes are sent.
    ///
    /// # Errors
    /// The client's Bind is malformed.
    pub fn parts(&self, nodes: usize) -> Result<Request, Report> {
        let first = self.part(true)?;
        if !self.first_only() {
            return Ok(first);
        }
        let others = (1..nodes).map(|_| self.part(false));
        let all = std::iter::once(Ok(first)).chain(others);
        Ok(Request::Each(all.collect::<Result<_, Report>>()?))
    }

    /// What a node is sent. `describes`: it is asked about the client's own statement too.
    fn part(&self, describes: bool) -> Result<Request, Report> {
        let Asked { text, types, bind, .. } = &self.asked;
        let mut segment = Segment::new();
        if describes {
            segment.parse(text, types);
            segment.describe(b'S');
            if let Some(query) = self.gather.query() {
                segment.parse(query.as_bytes(), types);
                segment.describe(b'S');
            }
        }
        let (types, bind) = match self.gather.takes_parameters() {
            true => (types.as_slice(), bind.as_slice()),
            false => (&[][..], &PLAIN_BIND[..]),
        };
        segment.parse(self.gather.partial().as_bytes(), types);
        segment.bind(&frontend::bind_of(bind)?.with_more(std::iter::empty(), &[0, 1]));
        segment.describe(b'P');
        segment.execute(0);
        Ok(segment.request(&self.plan, None))
    }

    /// The first node describes the statement, and carries out the last step: over the rows of tables.
    pub fn first_only(&self) -> bool {
        self.gather.by_first()
    }

    /// Which of the nodes carries out the last step.
    pub fn ends_at<'n>(&self, nodes: &'n [NodeId]) -> Option<&'n NodeId> {
        // The client has been told the numbers that types have on the first.
        let numbered = self.rows.as_ref().is_some_and(Gathered::has_own_types);
        if self.first_only() || numbered { nodes.first() } else { nodes.last() }
    }

    /// The client's own statement has been described: what comes behind is of pgshunt's making.
    pub fn is_described(&self) -> bool {
        !matches!(self.described, Described::NotYet)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A message of a node about its part; `first`: it is heard before all others. Gives how many of its
    /// messages the client has been answered.
    ///
    /// # Errors
    /// Rows are too many, or of types that are not carried.
    pub fn hears(
        &mut self,
        (tag, body): (u8, &[u8]),
        of_statement: bool,
        first: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, Report> {
        match tag {
            b't' if first => self.parameters = body.to_vec(),
            b'T' if of_statement && first => match &mut self.described {
                Described::NoColumns(columns) => *columns = body.to_vec(),
                described => *described = Described::Columns(body.to_vec()),
            },
            b'n' if of_statement && first => self.described = Described::NoColumns(Vec::new()),
            b'T' if !of_statement => {
                let told = columns(body).ok_or_else(malformed)?;
                match &self.rows {
                    None => {
                        self.rows = Some(self.gather.rows(body, self.most, &self.plan.tables)?)
                    }
                    Some(rows) if rows.are_of(&told) => {}
                    Some(_) => return Err(differ()),
                }
            }
            b'2' if first => return self.tell(out),
            b'D' => match &mut self.rows {
                Some(rows) => rows.row(body)?,
                None => return Err(malformed()),
            },
            _ => {}
        }
        Ok(0)
    }

    /// Answers the client's messages before the rows.
    fn tell(&self, out: &mut Vec<u8>) -> Result<usize, Report> {
        for told in &self.asked.told {
            match told {
                Told::Parsed => backend::put_bare(out, b'1'),
                Told::Bound => backend::put_bare(out, b'2'),
                Told::Closed => backend::put_bare(out, b'3'),
                Told::Statement => {
                    frame::put(out, b't', |b| b.extend_from_slice(&self.parameters));
                    match &self.described {
                        Described::Columns(columns) => {
                            frame::put(out, b'T', |b| b.extend_from_slice(columns));
                        }
                        Described::NoColumns(_) => backend::put_bare(out, b'n'),
                        Described::NotYet => return Err(malformed()),
                    }
                }
                Told::Portal | Told::Columns => match &self.described {
                    Described::Columns(columns) => {
                        let columns = self.in_formats(columns).ok_or_else(malformed)?;
                        frame::put(out, b'T', |b| b.extend_from_slice(&columns));
                    }
                    Described::NoColumns(_) if *told == Told::Portal => {
                        backend::put_bare(out, b'n')
                    }
                    Described::NoColumns(_) => {}
                    Described::NotYet => return Err(malformed()),
                },
            }
        }
        Ok(self.asked.told.iter().filter(|t| **t != Told::Columns).count())
    }

    /// The columns' description, with the formats that the client's Bind asks for.
    fn in_formats(&self, columns: &[u8]) -> Option<Vec<u8>> {
        let mut body = columns.to_vec();
        let bind = frontend::bind_of(&self.asked.bind).ok()?;
        let count = usize::from(u16::from_be_bytes(*body.first_chunk::<2>()?));
        let mut at = 2;
        for n in 0..count {
            at += memchr::memchr(0, body.get(at..)?)? + 1 + 16;
            let format = u16::from(bind.result_is_binary(n)).to_be_bytes();
            body.get_mut(at..at + 2)?.copy_from_slice(&format);
            at += 2;
        }
        Some(body)
    }

    /// What the one node is sent, and how its answer becomes the client's.
    ///
    /// # Errors
    /// No node has told its columns, or the client has sent another number of parameters than there are.
    pub fn last(&self) -> Result<(Request, Last), Report> {
        let rows = self.rows.as_ref().ok_or_else(malformed)?;
        let bind = frontend::bind_of(&self.asked.bind)?;
        let parameters = bind.count();
        self.has_parameters(parameters)?;
        let names = match &self.described {
            Described::NoColumns(told) => names(told),
            Described::Columns(_) | Described::NotYet => Vec::new(),
        };
        let text = rows.statement(&self.gather, parameters, &names);
        let mut types = self.asked.types.clone();
        types.resize(4 * parameters, 0);
        types.extend(rows.types().into_iter().flat_map(u32::to_be_bytes));
        let mut segment = Segment::new();
        let copy = match &self.gather {
            Gather::Copy(_, copy) => Some(copy),
            Gather::Combine(_) | Gather::Collect(_) => None,
        };
        if let Some(copy) = copy {
            segment.parse(copy.head.as_bytes(), &[]);
            segment.bind(&PLAIN_BIND);
            segment.execute(0);
        }
        let binary = copy.is_some_and(|copy| copy.look == Look::Binary);
        // The client's own formats are of an answer that COPY has not.
        let results = match copy {
            Some(_) if binary => &[0, 1][..],
            Some(_) => &[],
            None => bind.results(),
        };
        segment.parse(text.as_bytes(), &types);
        segment.bind(&bind.with_more(rows.values(), results));
        let last = match &self.described {
            Described::Columns(told) => {
                segment.describe(b'P');
                let wanted = self.in_formats(told).and_then(|body| columns(&body));
                let wanted: Vec<Column> = wanted.ok_or_else(malformed)?;
                let answer = Answer::of_last(self.asked.limit, wanted).holding(self.asked.hold);
                Last::Rows(answer.into())
            }
            Described::NoColumns(told) => match copy {
                Some(copy) => {
                    segment.describe(b'P');
                    let columns = columns(told).ok_or_else(malformed)?.into_iter();
                    let wanted = columns.map(|c| Column { binary, ..c }).collect();
                    let written = Written::new(copy.look.clone(), &names);
                    Last::Rows(Answer::of_last(0, wanted).writing(written).into())
                }
                None => Last::Done,
            },
            Described::NotYet => return Err(malformed()),
        };
        segment.execute(0);
        Ok((segment.request(&self.plan, self.asked.controls.clone()), last))
    }

    /// Those behind the statement's own are the rows'. PostgreSQL words it so.
    fn has_parameters(&self, sent: usize) -> Result<(), Report> {
        let count = self.parameters.first_chunk::<2>().ok_or_else(malformed)?;
        let wanted = usize::from(u16::from_be_bytes(*count));
        if sent == wanted {
            return Ok(());
        }
        let what = format!(
            "bind message supplies {sent} parameters, but prepared statement \"\" requires {wanted}"
        );
        Err(Report::error("08P01", what))
    }
}
