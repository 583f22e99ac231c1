//! DECLARE of a cursor: where it is, and how it reads the rows of several nodes.
//!
//! A cursor is PostgreSQL's own, on one node. Over rows of several nodes it is declared by the last step of
//! gathering them: FETCH, MOVE and what WITH HOLD keeps are that node's from there on, and the rows are those
//! of the moment of DECLARE, as a cursor's are.

use pg_raw_parse::{Node, nodes};
use postgres_protocol::escape::escape_identifier;

use super::context::{Context, refused};
use super::plan::{Combine, Control, Declared, Kind, Merge, RELATION, STAR};
use super::{collect, combine, query, traces};
use crate::sql::write;
use crate::topology::GroupId;

/// `CURSOR_OPT_*` of PostgreSQL's parsenodes.h.
const BINARY: i32 = 0x1;
const SCROLL: i32 = 0x2;
const NO_SCROLL: i32 = 0x4;
const INSENSITIVE: i32 = 0x8;
const HOLD: i32 = 0x20;

/// What DECLARE is.
pub fn declare(d: &nodes::DeclareCursorStmt, cx: Context<'_>) -> (Kind, Control) {
    let mut left = traces::of(cx);
    if left.prepared {
        // It is read by FETCH, and may be so in parts.
        let kind = refused(
            "a cursor over pg_prepared_statements is not supported",
            "Fetch all rows at once.",
        );
        return (kind, Control::None);
    }
    if d.options & HOLD != 0 {
        left.pin = Some("a cursor WITH HOLD");
    }
    left.declares = Some(d.portalname().unwrap_or_default().to_owned());
    (place(d, cx), traces::leaves(left))
}

/// The node of a cursor's rows, or how they come to one.
pub fn place(d: &nodes::DeclareCursorStmt, cx: Context<'_>) -> Kind {
    let Node::SelectStmt(s) = d.query() else { return query::place(d.query(), cx) };
    let (group, merge) = match query::place(d.query(), cx) {
        Kind::Every { group, merge } => (group, merge),
        kind => return kind,
    };
    match gathered(s, group, merge, cx) {
        Ok((group, Merge::Combine(combine))) => match write::select(s, |_, _| Some(())) {
            Some(query) => {
                let cursor = Some(Declared { head: head(d), query });
                let combine = Combine { cursor, ..(*combine).clone() };
                Kind::Every { group, merge: Merge::Combine(combine.into()) }
            }
            None => no("a statement of this kind"),
        },
        // What is collected has the client's own text for it.
        Ok((group, merge)) => Kind::Every { group, merge },
        Err(what) => no(&what),
    }
}

fn no(what: &str) -> Kind {
    refused(
        format!("a cursor over {what} of several nodes is not supported"),
        "Add an equality on the distribution column, or fetch all rows at once.",
    )
}

/// How a query's rows come to one node, whichever way they would take by themselves: by [`Merge::Combine`] or
/// [`Merge::Collect`].
pub fn gathered(
    s: &nodes::SelectStmt,
    group: GroupId,
    merge: Merge,
    cx: Context<'_>,
) -> Result<(GroupId, Merge), String> {
    if cx.facts.locks_rows {
        return Err("locked rows".to_owned());
    }
    let merged = match merge {
        Merge::Combine(_) | Merge::Collect(_) => return Ok((group, merge)),
        Merge::Concat if !s.target_list().is_empty() => as_they_are(s, cx),
        Merge::Ordered(_) | Merge::Fold(_) => combine::combined(s, cx).ok(),
        _ => None,
    };
    match merged {
        Some(combine) => Ok((group, Merge::Combine(combine.into()))),
        None => collect::collected(cx).map(|(group, c)| (group, Merge::Collect(c.into()))),
    }
}

/// The nodes send the rows of the answer.
fn as_they_are(s: &nodes::SelectStmt, cx: Context<'_>) -> Option<Combine> {
    // A row as a value has no type that is carried.
    let rows = |t: &nodes::ResTarget| matches!(t.val(), Node::RowExpr(_));
    if !write::is_flat(cx.own_text()) || s.target_list().iter().any(rows) {
        return None;
    }
    let partial = write::select(s, |_, _| Some(()))?;
    let last = format!("SELECT {STAR} FROM {RELATION}");
    Some(Combine { partial, fixed: 0, last, cursor: None })
}

/// DECLARE, up to the query.
fn head(d: &nodes::DeclareCursorStmt) -> String {
    let mut head = format!("DECLARE {}", escape_identifier(d.portalname().unwrap_or_default()));
    for (option, word) in [
        (BINARY, " BINARY"),
        (INSENSITIVE, " INSENSITIVE"),
        (SCROLL, " SCROLL"),
        (NO_SCROLL, " NO SCROLL"),
    ] {
        if d.options & option != 0 {
            head.push_str(word);
        }
    }
    head.push_str(" CURSOR");
    if d.options & HOLD != 0 {
        head.push_str(" WITH HOLD");
    }
    head.push_str(" FOR ");
    head
}
