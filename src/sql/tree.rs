//! A client's text as a tree, and walks over it. All parsing goes through here.
//!
//! A tree is as deep as its text is long, so nothing that goes over one may recurse: [`walk`] keeps
//! what it has still to visit on the heap. Of the C parser's own actions a few do recurse (they
//! compare, copy or locate an expression: `RETURNS TABLE (a int(1+1+...))`); a long text is therefore
//! parsed on a stack that its tokens cannot use up, or not at all.

use std::ops::ControlFlow;

use pg_raw_parse::{Node, Owned, StmtList};

pub use pg_raw_parse::walk::Recurse;

use super::size;
use super::stack::with_stack;

/// The statements of a text.
pub type Tree = Owned<StmtList>;

/// Texts up to this many bytes are parsed on the caller's stack, of which they use 2 MB at most.
pub const SHORT: usize = 8 << 10;
/// Texts whose tree may have more levels are not parsed. PostgreSQL itself gives up at some 35,000
/// with the largest max_stack_depth that an ordinary system allows.
const MAX_DEPTH: usize = 250_000;
/// PostgreSQL's scanner reads a run of operator characters anew for each one that it takes off the run's
/// end, so a longer run than this is not given to it. No operator is longer than 63.
const LONGEST_OPERATOR: usize = 256;
/// What a level of the tree can take of the stack in the parser, in bytes (about 250 measured).
const FRAME: usize = 512;

/// Why a text has no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unparsed {
    /// It is no statement of the grammar's, in the parser's words.
    #[error("{0}")]
    Syntax(String),
    /// Its tree could be deeper than the parser can bear.
    #[error("stack depth limit exceeded")]
    TooDeep,
}

/// Parses a text.
///
/// # Errors
/// The grammar does not know it, or it is nested beyond all measure.
pub fn parse(text: &str) -> Result<Tree, Unparsed> {
    let bytes = text.as_bytes();
    if text.len() <= SHORT && !may_have_long_operator(bytes) {
        return parse_here(text);
    }
    let size = size::of(bytes);
    if size.depth > MAX_DEPTH || size.operator > LONGEST_OPERATOR {
        return Err(Unparsed::TooDeep);
    }
    // Without a thread to be had nothing is known of the text.
    with_stack((1 << 20) + size.depth * FRAME, || parse_here(text))
        .unwrap_or(Err(Unparsed::TooDeep))
}

/// Whether there is such a run, in a string or comment perhaps.
fn may_have_long_operator(text: &[u8]) -> bool {
    let mut at = LONGEST_OPERATOR;
    // The run would reach over one of these places.
    while let Some(&byte) = text.get(at) {
        if size::is_operator(byte) {
            let back = text[..at].iter().rev().take_while(|b| size::is_operator(**b)).count();
            let on = text[at..].iter().take_while(|b| size::is_operator(**b)).count();
            if back + on > LONGEST_OPERATOR {
                return true;
            }
        }
        at += LONGEST_OPERATOR;
    }
    false
}

#[expect(clippy::disallowed_methods, reason = "its callers have counted how deep the tree is")]
fn parse_here(text: &str) -> Result<Tree, Unparsed> {
    match pg_raw_parse::parse(text) {
        Ok(parsed) => Ok(parsed.into_inner()),
        Err(e) => Err(Unparsed::Syntax(e.to_string())),
    }
}

/// Visits all that is below a node, each before what is below it and in the order of the text, until
/// `visit` breaks it off.
///
/// # Panics
/// The node is none of those that SELECT, INSERT, UPDATE, DELETE and MERGE are made of.
pub fn walk<'a, B>(
    node: Node<'a>,
    mut visit: impl FnMut(Node<'a>) -> ControlFlow<B, Recurse>,
) -> Option<B> {
    let mut waiting = Vec::new();
    let descend = |node: Node<'a>, waiting: &mut Vec<Node<'a>>| {
        let before = waiting.len();
        children(node, |child| waiting.push(child));
        waiting[before..].reverse();
    };
    descend(node, &mut waiting);
    while let Some(node) = waiting.pop() {
        match visit(node) {
            ControlFlow::Break(found) => return Some(found),
            ControlFlow::Continue(Recurse::Yes) => descend(node, &mut waiting),
            ControlFlow::Continue(Recurse::No) => {}
        }
    }
    None
}

/// Gives the nodes right below one, in the order of the text.
///
/// # Panics
/// As [`walk`].
pub fn children<'a>(node: Node<'a>, mut give: impl FnMut(Node<'a>)) {
    match node {
        Node::None
        | Node::A_Const(_)
        | Node::ParamRef(_)
        | Node::String(_)
        | Node::Integer(_)
        | Node::Float(_)
        | Node::Boolean(_) => {}
        Node::NodeList(list) => {
            list.iter().filter(|n| !matches!(n, Node::None)).for_each(give);
        }
        _ => {
            pg_raw_parse::walk::walk_manual::<()>(node, |child| {
                give(child);
                Recurse::no()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds of nodes in the order of a walk.
    fn kinds(walk: impl Fn(Node<'_>, &mut dyn FnMut(Node<'_>)), sql: &str) -> Vec<String> {
        let tree = parse(sql).unwrap();
        let mut found = Vec::new();
        for statement in tree.stmts() {
            walk(statement, &mut |n| {
                let text = format!("{n:?}");
                found.push(text.chars().take_while(|c| *c != ' ').collect());
            });
        }
        found
    }

    #[test]
    fn nodes_are_visited_in_the_order_of_the_parsers_own_walker() {
        for sql in [
            "SELECT 1+2*a.b, f(c, $1) OVER (PARTITION BY d) FROM t JOIN u USING (x) WHERE NOT y",
            "WITH w AS (SELECT 1 UNION SELECT 2) UPDATE t SET a = ARRAY[1, 2], b = DEFAULT FROM w",
            "INSERT INTO t (a) VALUES (1, 'b'::text), (NULL, CASE WHEN true THEN 1 ELSE 2 END)",
            "SELECT a[1:2].b FROM LATERAL (SELECT 1) s, f(1) ORDER BY 1 LIMIT 2 FOR UPDATE OF t",
        ] {
            let ours = kinds(
                |node, see| {
                    walk::<()>(node, |n| {
                        see(n);
                        Recurse::yes()
                    });
                },
                sql,
            );
            let theirs = kinds(
                |node, see| {
                    pg_raw_parse::walk::walk_manual::<()>(node, |n| {
                        see(n);
                        Recurse::yes()
                    });
                },
                sql,
            );
            assert!(ours.len() > 10, "{ours:?}");
            assert_eq!(ours, theirs, "{sql}");
        }
    }

    #[test]
    fn a_walk_ends_where_it_is_broken_off() {
        let tree = parse("SELECT 1, $1, $2").unwrap();
        let first = walk(tree.stmts().next().unwrap(), |n| match n {
            Node::ParamRef(p) => ControlFlow::Break(p.number),
            _ => Recurse::yes(),
        });
        assert_eq!(first, Some(1));
    }

    #[test]
    fn the_scanner_is_not_given_endless_operators() {
        for times in [200, 7_000, 100_000] {
            let outcome = parse(&format!("SELECT {}a", "+".repeat(times)));
            let expected = if times == 200 { None } else { Some(Unparsed::TooDeep) };
            assert_eq!(outcome.err(), expected, "{times}");
        }
        for fine in ["-- ".to_owned() + &"-".repeat(500), format!("SELECT '{}'", "+".repeat(500))] {
            assert!(parse(&fine).is_ok(), "{fine}");
        }
    }

    /// These make the C parser itself recurse, over what it has just read.
    #[test]
    fn the_parsers_own_recursion_has_the_stack_it_needs() {
        let sum = vec!["1"; 100_000].join("+");
        for sql in [
            format!("CREATE FUNCTION f() RETURNS TABLE (a int({sum})) LANGUAGE sql AS ''"),
            format!("(SELECT 1 ORDER BY {sum}) ORDER BY 2"),
            format!("CREATE AGGREGATE f(VARIADIC a int({sum}) ORDER BY VARIADIC b int({sum})) ()"),
        ] {
            let outcome = parse(&sql);
            assert!(!matches!(outcome, Err(Unparsed::TooDeep)), "{:.60}", sql);
        }
        let sum = vec!["1"; 1_000_000].join("+");
        assert_eq!(parse(&format!("SELECT {sum}")).err(), Some(Unparsed::TooDeep));
    }
}
