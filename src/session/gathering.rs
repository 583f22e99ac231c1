//! A statement of which one node makes the answer, of rows that all of them have sent.
//!
//! ```text
//!   each node:  Parse and Describe (the client's own text)      whose errors and columns are the client's
//!               Parse, Bind, Describe, Execute (its part), Sync  rows in binary: merge::Relation
//!   one node:   Parse, Bind, Describe, Execute (the last), Sync  rows as the client wants them
//! ```

use std::sync::Arc;

use super::request::{Request, Segment};
use crate::merge::{Answer, Column, Relation, columns, differ, malformed, names};
use crate::router::plan::{Combine, Plan};
use crate::wire::backend::{self, Report};
use crate::wire::{frame, frontend};

/// What the client is answered before the first row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Parsed,
    /// ParameterDescription and the columns.
    Statement,
    Bound,
    /// The columns, in the formats that Bind asks for.
    Portal,
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
    /// The row limit of Execute; 0: none.
    pub limit: u64,
}

impl Asked {
    /// A query of the simple protocol.
    pub fn of_query(text: &[u8]) -> Self {
        let (types, bind) = (Vec::new(), PLAIN_BIND.to_vec());
        Self { text: text.to_vec(), types, bind, told: vec![Told::Portal], limit: 0 }
    }
}

/// The Bind of a query without parameters, whose result is text.
pub(super) const PLAIN_BIND: [u8; 6] = [0; 6];

#[derive(Debug)]
pub(super) struct Gathering {
    combine: Arc<Combine>,
    plan: Arc<Plan>,
    asked: Asked,
    /// The bodies of ParameterDescription and RowDescription of the client's own statement.
    parameters: Vec<u8>,
    columns: Option<Vec<u8>>,
    relation: Option<Relation>,
}

impl Gathering {
    pub fn new(combine: Arc<Combine>, plan: Arc<Plan>, asked: Asked) -> Self {
        Self { combine, plan, asked, parameters: Vec::new(), columns: None, relation: None }
    }

    /// What each node is sent.
    ///
    /// # Errors
    /// The client's Bind is malformed.
    pub fn part(&self) -> Result<Request, Report> {
        let Asked { text, types, bind, .. } = &self.asked;
        let mut segment = Segment::new();
        segment.parse(text, types);
        segment.describe(b'S');
        segment.parse(self.combine.partial.as_bytes(), types);
        segment.bind(&frontend::bind_of(bind)?.with_more(std::iter::empty(), &[0, 1]));
        segment.describe(b'P');
        segment.execute(0);
        Ok(segment.request(&self.plan, None))
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
            b'T' if of_statement && first => self.columns = Some(body.to_vec()),
            b'T' if !of_statement => {
                let told = columns(body).ok_or_else(malformed)?;
                match &self.relation {
                    None => self.relation = Some(Relation::new(&told, names(body))?),
                    Some(relation) if relation.is_of(&told) => {}
                    Some(_) => return Err(differ()),
                }
            }
            b'2' if first => return self.tell(out),
            b'D' => match &mut self.relation {
                Some(relation) => relation.row(body)?,
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
                    let columns = self.columns.as_ref().ok_or_else(malformed)?;
                    frame::put(out, b'T', |b| b.extend_from_slice(columns));
                }
                Told::Portal => {
                    let columns = self.in_formats().ok_or_else(malformed)?;
                    frame::put(out, b'T', |b| b.extend_from_slice(&columns));
                }
            }
        }
        Ok(self.asked.told.len())
    }

    /// The columns' description, with the formats that the client's Bind asks for.
    fn in_formats(&self) -> Option<Vec<u8>> {
        let mut body = self.columns.clone()?;
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

    /// What the one node is sent, and how its rows become the client's.
    ///
    /// # Errors
    /// No node has told its columns.
    pub fn last(&self) -> Result<(Request, Answer), Report> {
        let relation = self.relation.as_ref().ok_or_else(malformed)?;
        let bind = frontend::bind_of(&self.asked.bind)?;
        let parameters = bind.count();
        let text = relation.statement(&self.combine, parameters);
        let mut types = self.asked.types.clone();
        types.resize(4 * parameters, 0);
        types.extend(relation.types().flat_map(u32::to_be_bytes));
        let mut segment = Segment::new();
        segment.parse(text.as_bytes(), &types);
        segment.bind(&bind.with_more(relation.values(), bind.results()));
        segment.describe(b'P');
        segment.execute(0);
        let described = self.in_formats().and_then(|body| columns(&body));
        let wanted: Vec<Column> = described.ok_or_else(malformed)?;
        Ok((segment.request(&self.plan, None), Answer::of_last(self.asked.limit, wanted)))
    }
}
