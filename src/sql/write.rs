//! From a tree back to a text, for statements that the nodes get in other words than the client's.
//!
//! PostgreSQL's grammar is read by `sql::tree` alone, and written here alone, by libpg_query's deparser.
//! That recurses, so a text whose tree may be deep is not rewritten at all ([`is_flat`]).

use pg_raw_parse::NodeMut;
use pg_raw_parse::make::Unique;
use pg_raw_parse::transform::{Assignable, Transform, TransformClosure};

/// Where the nodes of a copy are.
pub use pg_raw_parse::make::MemoryToken as Memory;
use pg_raw_parse::nodes::{ResTarget, SelectStmt, SelectStmtMut};
use pg_raw_parse::{Node, make, nodes};

use super::{size, tree};

/// Trees of more levels are not copied and not written (1 to 2 kB of stack for each).
const MAX_DEPTH: usize = 500;

/// Whether the tree of a text can be rewritten on the caller's stack.
pub fn is_flat(text: &[u8]) -> bool {
    size::of(text).depth <= MAX_DEPTH
}

/// A SELECT with changes, as text; `None`: it cannot be written.
pub fn select(
    s: &SelectStmt,
    change: impl for<'mem, 'r> FnOnce(Memory<'mem>, &mut SelectStmtMut<'mem, 'r>) -> Option<()>,
) -> Option<String> {
    let owned = make::try_owned(|mem| {
        let mut copy = mem.make_unique(s);
        change(mem, &mut copy.as_mut()).ok_or(())?;
        let raw: Unique<'_, &nodes::RawStmt> = mem.make_raw_stmt(copy.uncast());
        Ok::<_, ()>(raw)
    });
    let raw = owned.ok()?;
    let written = pg_raw_parse::deparse(&*raw).ok()?;
    Some(written.as_str().to_owned())
}

/// An expression as text.
pub fn expression(node: Node<'_>) -> Option<String> {
    let owned = make::owned(|mem| {
        let target = mem.make_res_target(None, mem.empty(), mem.make_unique(node));
        let mut select = mem.make_node::<SelectStmt>();
        select.as_mut().set_target_list(mem.make_list(&[target]));
        select.as_mut().set_limit_option(pg_raw_parse::raw::LimitOption::LIMIT_OPTION_DEFAULT);
        mem.make_raw_stmt(select.uncast())
    });
    let written = pg_raw_parse::deparse(&*owned).ok()?;
    written.as_str().strip_prefix("SELECT ").map(str::to_owned)
}

/// What a text of ours is that is one expression of a target list, to be put into another tree.
pub fn target<'mem>(mem: Memory<'mem>, text: &str) -> Option<Unique<'mem, &'mem ResTarget>> {
    let tree = tree::parse(&format!("SELECT {text}")).ok()?;
    let Some(Node::SelectStmt(s)) = tree.stmts().next() else { return None };
    s.target_list().get(0).map(|target| mem.make_unique(target))
}

/// The same, for an expression without a name.
pub fn value<'mem>(mem: Memory<'mem>, text: &str) -> Option<Unique<'mem, Node<'mem>>> {
    let tree = tree::parse(&format!("SELECT {text}")).ok()?;
    let Some(Node::SelectStmt(s)) = tree.stmts().next() else { return None };
    s.target_list().get(0).map(|target| mem.make_unique(target.val()))
}

/// What becomes of an expression.
pub enum Put {
    /// It stays, and what is below it is looked at.
    Deeper,
    /// It stays as it is.
    Keep,
    /// This stands in its place.
    Text(String),
}

/// Puts other expressions into all clauses of a SELECT but FROM, WHERE, WITH and LIMIT: `see` is asked from
/// above. `None`: what is to be put is no expression.
pub fn put_into<'mem>(
    mem: Memory<'mem>,
    copy: &mut SelectStmtMut<'mem, '_>,
    see: &mut dyn FnMut(Node<'_>) -> Put,
) -> Option<()> {
    let mut sound = true;
    let mut having = mem.make_unique(copy.having_clause());
    let mut put =
        TransformClosure::new(|node: Assignable<'mem, '_>| put_one(mem, node, see, &mut sound));
    put.transform_res_target_list(copy.target_list_mut());
    put.transform_list(copy.distinct_clause_mut());
    put.transform_list(copy.group_clause_mut());
    if !matches!(copy.having_clause(), Node::None) {
        put.transform_node(Assignable::new(&mut having));
    }
    put.transform_list(copy.window_clause_mut());
    put.transform_sort_by_list(copy.sort_clause_mut());
    copy.set_having_clause(having);
    sound.then_some(())
}

/// An expression as text, with others put into it.
pub fn rewritten(node: Node<'_>, see: &mut dyn FnMut(Node<'_>) -> Put) -> Option<String> {
    let mut sound = true;
    let owned = make::owned(|mem| {
        let mut value = mem.make_unique(node);
        TransformClosure::new(|node: Assignable<'_, '_>| put_one(mem, node, see, &mut sound))
            .transform_node(Assignable::new(&mut value));
        let target = mem.make_res_target(None, mem.empty(), value);
        let mut select = mem.make_node::<SelectStmt>();
        select.as_mut().set_target_list(mem.make_list(&[target]));
        mem.make_raw_stmt(select.uncast())
    });
    let written = pg_raw_parse::deparse(&*owned).ok().filter(|_| sound)?;
    written.as_str().strip_prefix("SELECT ").map(str::to_owned)
}

fn put_one<'mem, 'r>(
    mem: Memory<'mem>,
    node: Assignable<'mem, 'r>,
    see: &mut dyn FnMut(Node<'_>) -> Put,
    sound: &mut bool,
) -> Option<Assignable<'mem, 'r>> {
    let Some(shared) = expression_of(&node) else { return Some(node) };
    match see(shared) {
        Put::Deeper => Some(node),
        Put::Keep => None,
        Put::Text(text) => {
            match value(mem, &text) {
                Some(value) => node.replace(value),
                None => *sound = false,
            }
            None
        }
    }
}

/// The node, if it is an expression and no list or clause.
fn expression_of<'n>(node: &'n NodeMut<'_, '_>) -> Option<Node<'n>> {
    macro_rules! expressions {
        ($($kind:ident),*) => {
            match node {
                $(NodeMut::$kind(n) => Some(Node::$kind(n)),)*
                _ => None,
            }
        };
    }
    expressions!(
        ColumnRef,
        FuncCall,
        ParamRef,
        A_Expr,
        A_Const,
        A_Indirection,
        A_ArrayExpr,
        BoolExpr,
        BooleanTest,
        NullTest,
        CaseExpr,
        CoalesceExpr,
        MinMaxExpr,
        CollateClause,
        TypeCast,
        SubLink,
        RowExpr,
        SQLValueFunction,
        GroupingFunc,
        XmlExpr
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_select_is_written_with_changes() {
        let tree = tree::parse("SELECT a, 'b' FROM t WHERE c = $1 ORDER BY a LIMIT 3").unwrap();
        let Some(Node::SelectStmt(s)) = tree.stmts().next() else { panic!() };
        let text = select(s, |mem, s| {
            s.target_list_mut().push(mem, target(mem, "f(x) AS y")?);
            s.set_limit_count(value(mem, "$2")?);
            Some(())
        });
        let wanted = "SELECT a, 'b', f(x) AS y FROM t WHERE c = $1 ORDER BY a LIMIT $2";
        assert_eq!(text.as_deref(), Some(wanted));
        let sort = s.sort_clause().get(0).unwrap();
        assert_eq!(expression(sort.node()).as_deref(), Some("a"));
        assert!(!is_flat(format!("SELECT {}", vec!["1"; 1000].join("+")).as_bytes()));
    }
}
