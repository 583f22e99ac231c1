//! An INSERT whose rows lie on several nodes: what each node is sent of it, which is the client's own text with
//! its rows only.

use crate::router::Rows;
use crate::router::plan::Parts;
use crate::wire::backend::Report;
use crate::wire::frontend::Bind;

use super::Statement;

/// The number of `text`, which PostgreSQL takes in any format of the client's that is text.
const TEXT: u32 = 25;

/// What a node is sent by the extended protocol.
pub(super) struct Part {
    pub text: Vec<u8>,
    /// The types of all parameters, as far as they are declared.
    pub types: Vec<u8>,
    /// Bind behind its names: parameters of other nodes' rows are NULL.
    pub bind: Vec<u8>,
}

/// Each node's text.
///
/// # Errors
/// The rows cannot be told apart.
pub(super) fn texts(text: &[u8], parts: &Parts) -> Result<Vec<Vec<u8>>, Report> {
    let found = find(text, parts)?;
    Ok(parts.rows.iter().map(|rows| found.slice(text, rows)).collect())
}

/// The same by the extended protocol.
///
/// # Errors
/// The rows cannot be told apart, or a parameter without a type stands in several places.
pub(super) fn bound(
    (statement, text): (&Statement, &[u8]),
    bind: &Bind<'_>,
    parts: &Parts,
) -> Result<Vec<Part>, Report> {
    let found = find(text, parts)?;
    let mut types = statement.types();
    types.resize(types.len().max(bind.count() * 4), 0);
    let is_open = |n: usize| types.get(4 * n..4 * n + 4) == Some(&[0; 4]);
    let all: Vec<usize> = (0..parts.rows.iter().map(Vec::len).sum()).collect();
    let mut seen = vec![false; types.len() / 4];
    for number in found.params(&all) {
        let Some(seen) = number.checked_sub(1).and_then(|n| seen.get_mut(n)) else { continue };
        if std::mem::replace(seen, true) && is_open(number - 1) {
            return Err(unsure(number));
        }
    }
    let part = |rows: &Vec<usize>| {
        let mut stands = vec![false; seen.len()];
        for number in found.params(rows) {
            if let Some(stands) = number.checked_sub(1).and_then(|n| stands.get_mut(n)) {
                *stands = true;
            }
        }
        let mut own = types.clone();
        for (n, stands) in stands.iter().enumerate() {
            // PostgreSQL would not know of which type it is.
            if !stands && is_open(n) {
                own[4 * n..4 * n + 4].copy_from_slice(&TEXT.to_be_bytes());
            }
        }
        Part {
            text: found.slice(text, rows),
            types: own,
            bind: bind.with_only(|n| stands.get(n).copied().unwrap_or(true)),
        }
    };
    Ok(parts.rows.iter().map(part).collect())
}

fn find(text: &[u8], parts: &Parts) -> Result<Rows, Report> {
    let count = parts.rows.iter().map(Vec::len).sum();
    Rows::of(text, count).ok_or_else(|| {
        Report::error(
            "0A000",
            "the rows of this INSERT lie on several nodes and cannot be told apart",
        )
        .hint("Send one row at a time.")
    })
}

fn unsure(number: usize) -> Report {
    Report::error("0A000", format!("cannot tell the type of parameter ${number}")).hint(
        "It stands in several places of an INSERT whose rows lie on several nodes: declare its type, or use a \
         parameter for each place.",
    )
}
