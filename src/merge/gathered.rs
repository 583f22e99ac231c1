//! What one node makes the answer of: rows of all of them, within a bound.

use std::sync::Arc;

use super::collection::Collection;
use super::modifier::modifiers;
use super::relation::{Relation, has_types};
use super::{Column, columns, malformed, names};
use crate::router::plan::{Collect, Combine, CopyRows, Merge};
use crate::wire::backend::{Report, data_row};

/// How one node makes the answer.
#[derive(Debug, Clone)]
pub enum Gather {
    Combine(Arc<Combine>),
    Collect(Arc<Collect>),
    /// By another of these, and the answer is the data of COPY.
    Copy(Box<Gather>, Arc<CopyRows>),
}

impl Gather {
    /// `None`: the answer is made of the nodes' answers as they come.
    pub fn of(merge: &Merge) -> Option<Self> {
        match merge {
            Merge::Combine(combine) => Some(Self::Combine(combine.clone())),
            Merge::Collect(collect) => Some(Self::Collect(collect.clone())),
            Merge::CopyRows(copy) => {
                Self::of(&copy.rows).map(|by| Self::Copy(by.into(), copy.clone()))
            }
            Merge::Concat
            | Merge::Ordered(_)
            | Merge::Fold(_)
            | Merge::Alike(_)
            | Merge::Changes { .. }
            | Merge::Rows(_)
            | Merge::CopyIn(_)
            | Merge::CopyOut(_) => None,
        }
    }

    /// What each node is sent.
    pub fn partial(&self) -> &str {
        match self {
            Self::Combine(combine) => &combine.partial,
            Self::Collect(collect) => &collect.partial,
            Self::Copy(by, _) => by.partial(),
        }
    }

    /// The one node is the first, and it alone is asked about the client's own statement: it may be the only one
    /// that knows all tables.
    pub fn by_first(&self) -> bool {
        match self {
            Self::Combine(_) => false,
            Self::Collect(_) => true,
            Self::Copy(by, _) => by.by_first(),
        }
    }

    /// What tells the columns of a cursor, or of COPY, if the client's own statement does not stand in the last.
    pub fn query(&self) -> Option<&str> {
        match self {
            Self::Combine(combine) => combine.cursor.as_ref().map(|c| c.query.as_str()),
            Self::Collect(_) => None,
            Self::Copy(_, copy) => Some(&copy.query),
        }
    }

    /// The client's parameters stand in what each node is sent.
    pub fn takes_parameters(&self) -> bool {
        match self {
            Self::Combine(_) => true,
            Self::Collect(collect) => collect.takes_parameters,
            // It has none.
            Self::Copy(..) => false,
        }
    }

    /// For rows that are described so, up to so many bytes. `tables`: those of the statement, to be named.
    ///
    /// # Errors
    /// A type is not carried from node to node.
    pub fn rows(
        &self,
        description: &[u8],
        most: usize,
        tables: &[String],
    ) -> Result<Gathered, Report> {
        if let Self::Copy(by, _) = self {
            return by.rows(description, most, tables);
        }
        let columns = columns(description).ok_or_else(malformed)?;
        let modifiers = modifiers(description);
        let rows = match self {
            Self::Combine(_) => Rows::One(Relation::new(&columns, names(description), &modifiers)?),
            Self::Collect(collect) => Rows::Tables(Collection::new(collect, &columns, &modifiers)?),
            Self::Copy(..) => return Err(malformed()),
        };
        Ok(Gathered { rows, most, tables: tables.join(", ") })
    }
}

/// The rows, of which no more is kept than a bound. The node needs six times as much for them.
#[derive(Debug)]
pub struct Gathered {
    rows: Rows,
    /// In bytes.
    most: usize,
    /// The tables that the statement names.
    tables: String,
}

#[derive(Debug)]
enum Rows {
    One(Relation),
    Tables(Collection),
}

impl Gathered {
    /// Whether another node's rows have these columns too.
    pub fn are_of(&self, columns: &[Column]) -> bool {
        match &self.rows {
            Rows::One(relation) => has_types(relation.columns(), columns),
            Rows::Tables(tables) => tables.is_of(columns),
        }
    }

    /// What has been kept, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.rows {
            Rows::One(relation) => relation.bytes,
            Rows::Tables(tables) => tables.bytes(),
        }
    }

    /// A DataRow of any node.
    ///
    /// # Errors
    /// There are too many rows.
    pub fn row(&mut self, body: &[u8]) -> Result<(), Report> {
        let row = data_row(body).ok_or_else(malformed)?;
        match &mut self.rows {
            Rows::One(relation) => relation.row(&row)?,
            Rows::Tables(tables) => tables.row(&row)?,
        }
        if self.bytes() > self.most { Err(self.too_many()) } else { Ok(()) }
    }

    fn too_many(&self) -> Report {
        let report = Report::error("54000", "the rows of several nodes are too many for one");
        let most = shown(self.most);
        let lower = "read.collect_limit and pgshunt.collect_limit say how much may be moved.";
        match &self.rows {
            Rows::One(relation) => report
                .detail(format!(
                    "They take more than {most}: {} bytes so far of what each node makes of {}.",
                    relation.bytes, self.tables
                ))
                .hint(format!(
                    "Let the statement read fewer rows, or group by the distribution column. {lower}"
                )),
            Rows::Tables(tables) => {
                let (name, bytes) = tables.largest().unwrap_or_default();
                report
                    .detail(format!(
                        "They take more than {most}, {bytes} bytes of them of table \"{name}\"."
                    ))
                    .hint(format!(
                        "Add conditions on \"{name}\", name fewer of its columns, or join on the distribution \
                         column. {lower}"
                    ))
            }
        }
    }

    /// The last statement, whose own parameters are so many. `columns`: what those of a cursor are called.
    pub fn statement(&self, gather: &Gather, parameters: usize, columns: &[String]) -> String {
        match (&self.rows, gather) {
            (Rows::One(relation), Gather::Combine(combine)) => {
                let made = relation.statement(combine, parameters);
                let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
                match &combine.cursor {
                    None => made,
                    Some(cursor) => {
                        let columns: Vec<_> = columns.iter().map(quoted).collect();
                        let columns = columns.join(", ");
                        format!("{}SELECT * FROM ({made}) AS c({columns})", cursor.head)
                    }
                }
            }
            (Rows::Tables(tables), Gather::Collect(collect)) => {
                tables.statement(collect, parameters)
            }
            (_, Gather::Copy(by, _)) => self.statement(by, parameters, columns),
            // Rows are made by what they are for.
            (Rows::One(_), Gather::Collect(_)) | (Rows::Tables(_), Gather::Combine(_)) => {
                String::new()
            }
        }
    }

    /// A column is of a type that somebody has made.
    pub fn has_own_types(&self) -> bool {
        self.relations().into_iter().any(Relation::has_own)
    }

    fn relations(&self) -> Vec<&Relation> {
        match &self.rows {
            Rows::One(relation) => vec![relation],
            Rows::Tables(tables) => tables.relations().collect(),
        }
    }

    /// The types of the last statement's further parameters.
    pub fn types(&self) -> Vec<u32> {
        self.relations().into_iter().flat_map(Relation::types).collect()
    }

    /// Their values, in binary format.
    pub fn values(&self) -> impl Iterator<Item = Vec<u8>> {
        self.relations().into_iter().flat_map(Relation::values)
    }
}

/// A number of bytes as it is set.
fn shown(bytes: usize) -> String {
    match (bytes % (1 << 20), bytes % (1 << 10)) {
        (0, _) => format!("{} MB", bytes >> 20),
        (_, 0) => format!("{} kB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::plan::Collected;
    use crate::wire::backend::put_data_row;

    #[test]
    fn rows_are_kept_up_to_a_bound_and_the_largest_table_is_named() {
        let table =
            |name: &str| Collected { name: name.into(), columns: 1, nothing: String::new() };
        let collect = Collect {
            tables: [table("small"), table("large")].into(),
            partial: String::new(),
            takes_parameters: false,
            last: [].into(),
            at_home: false,
            others: [].into(),
        };
        let mut description = vec![0, 3];
        for oid in [23u32, 25, 25] {
            description.extend_from_slice(b"c\0\0\0\0\0\0\0");
            description.extend_from_slice(&oid.to_be_bytes());
            description.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 1]);
        }
        let gather = Gather::Collect(Arc::new(collect));
        let mut rows = gather.rows(&description, 16 << 20, &[]).unwrap();
        let value = vec![b'x'; 4 << 20];
        let mut add = |number: u8| {
            let mut out = Vec::new();
            let mut row = [Some(&[0, 0, 0, number][..]), None, None];
            row[usize::from(number)] = Some(&value);
            put_data_row(&mut out, row.into_iter());
            rows.row(&out[5..])
        };
        for number in [2, 1, 2] {
            add(number).unwrap();
        }
        let report = add(2).unwrap_err();
        assert_eq!(report.sqlstate, "54000");
        assert!(report.detail.unwrap().contains("12582924 bytes of them of table \"large\""));
        assert!(report.hint.unwrap().contains("\"large\""));
        assert_eq!(["16 MB", "100 kB", "7 bytes"], [16 << 20, 100 << 10, 7].map(shown));
    }
}
