//! What may take other rows of a reference table on one node than on another: they have the same rows, and each
//! in an order of its own.

use std::collections::{HashMap, HashSet};

use pg_raw_parse::raw::{SetOperation, SubLinkType};
use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::facts::Relation;
use super::functions::name_of;
use super::scope::Named;
use crate::sql::tree::{Recurse, walk};

/// What in a statement may take other rows of a reference table on one node than on another.
pub fn unordered(cx: Context<'_>) -> Option<&'static str> {
    let root = cx.facts.query?;
    let kinds: HashMap<*const nodes::RangeVar, bool> = cx
        .facts
        .relations
        .iter()
        .map(|r| (std::ptr::from_ref(r.node), matches!(r.named, Named::Distributed(_))))
        .collect();
    let is_read = |r: &&Relation<'_>| matches!(r.named, Named::Reference(_)) && !r.is_target;
    cx.facts.relations.iter().find(is_read)?;
    let values = Values::of(cx);
    let mut exists = HashSet::new();
    let mut selects = Vec::new();
    walk::<()>(root, |n| {
        match n {
            Node::SubLink(l) if l.sub_link_type == SubLinkType::EXISTS_SUBLINK => {
                if let Node::SelectStmt(s) = l.subselect() {
                    exists.insert(std::ptr::from_ref(s));
                }
            }
            Node::SelectStmt(s) => selects.push(s),
            _ => {}
        }
        Recurse::yes()
    });
    selects.into_iter().find_map(|s| {
        let (mut distributed, mut reference) = (false, false);
        walk::<()>(s.into(), |n| {
            if let Node::RangeVar(rv) = n {
                match kinds.get(&std::ptr::from_ref(rv)) {
                    Some(true) => distributed = true,
                    // A WITH query's name may stand for a reference table.
                    Some(false) | None => reference = true,
                }
            }
            Recurse::yes()
        });
        // Rows that a distributed table takes part in are on one node.
        if distributed || !reference {
            return None;
        }
        picks(s, exists.contains(&std::ptr::from_ref(s)), cx).or_else(|| values.differ(s))
    })
}

/// What the values of a statement's reference tables are like.
struct Values {
    /// Some have a floating-point type, whose sums depend on the order.
    floats: bool,
    /// Values that are equal may look different (1.0 and 1.00), and they are to be stored.
    equals_are_stored: bool,
}

impl Values {
    fn of(cx: Context<'_>) -> Self {
        /// Types of which equal values are the same.
        const SAME: [u32; 15] =
            [16, 17, 18, 19, 20, 21, 23, 25, 26, 1043, 1082, 1083, 1114, 1184, 2950];
        const FIRST_OWN: u32 = 16_384;
        let all = || {
            cx.facts.relations.iter().filter_map(|r| match &r.named {
                Named::Reference(table) => Some((table, r.is_target)),
                _ => None,
            })
        };
        let types = || all().flat_map(|(table, _)| table.columns.iter().map(|c| c.type_oid));
        let float = |oid: u32| matches!(oid, 700 | 701) || oid >= FIRST_OWN;
        Self {
            floats: types().any(float),
            equals_are_stored: all().any(|(_, is_target)| is_target)
                && types().any(|oid| !SAME.contains(&oid)),
        }
    }

    /// What of a SELECT's own may give other values on another node.
    fn differ(&self, s: &nodes::SelectStmt) -> Option<&'static str> {
        let mut found = None;
        walk::<()>(s.into(), |n| {
            if let Node::FuncCall(f) = n {
                let name = name_of(f).map_or("", |(_, name)| name);
                let column = matches!(f.args().get(0), Some(Node::ColumnRef(_)));
                match name {
                    "sum" | "avg" if self.floats || !column => {
                        found = Some(
                            "a sum over a reference table that may be of floating-point numbers",
                        );
                    }
                    "min" | "max" if self.equals_are_stored => found = Some(EQUALS),
                    _ => {}
                }
            }
            Recurse::yes()
        });
        let joins = s.op != SetOperation::SETOP_NONE && !s.all;
        let groups = joins || !s.group_clause().is_empty() || !s.distinct_clause().is_empty();
        found.or((self.equals_are_stored && groups).then_some(EQUALS))
    }
}

const EQUALS: &str = "one of several equal values of a reference table";

/// What of a SELECT's own sees its rows in an order.
fn picks(s: &nodes::SelectStmt, in_exists: bool, cx: Context<'_>) -> Option<&'static str> {
    /// Aggregates that give the same in whatever order rows come.
    const ORDER_FREE: [&str; 11] = [
        "count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or",
        "bit_xor",
    ];
    let limits = !matches!((s.limit_count(), s.limit_offset()), (Node::None, Node::None));
    if limits && !in_exists {
        return Some("LIMIT or OFFSET on a reference table");
    }
    if matches!(s.distinct_clause().get(0), Some(n) if !matches!(n, Node::None)) {
        return Some("DISTINCT ON of a reference table");
    }
    let mut found = None;
    walk::<()>(s.into(), |n| {
        if let Node::FuncCall(f) = n {
            let name = name_of(f).map_or("", |(_, name)| name);
            let aggregate = cx.functions.is_aggregate(name) && !ORDER_FREE.contains(&name);
            if f.over().is_some() {
                found = Some("a window function on a reference table");
            } else if aggregate {
                found = Some("an aggregate that depends on the order of a reference table's rows");
            }
        }
        Recurse::yes()
    });
    found
}
