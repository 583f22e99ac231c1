//! Which statements return no rows at all, as their text alone tells.

use crate::sql::tree::{self, Recurse, walk};
use pg_raw_parse::Node;

/// The highest parameter of a text that returns no columns; `None`: it returns some, or may.
pub fn parameters_of_silent(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    // Nothing that the planner has not been through already.
    let tree = tree::parse(text).ok()?;
    let mut statements = tree.iter();
    let Some(raw) = statements.next() else { return Some(0) };
    let node = raw.stmt();
    if statements.next().is_some() || !is_silent(node) {
        return None;
    }
    let query = match node {
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => node,
        Node::CreateTableAsStmt(c) => c.query(),
        Node::DeclareCursorStmt(d) => d.query(),
        // PostgreSQL does not look into it before it is carried out.
        _ => return Some(0),
    };
    let mut highest = 0;
    walk::<()>(query, |n| {
        if let Node::ParamRef(p) = n {
            highest = highest.max(usize::try_from(p.number).unwrap_or(usize::MAX));
        }
        Recurse::yes()
    });
    Some(highest)
}

/// As PostgreSQL decides it (`ChoosePortalStrategy`, `UtilityReturnsTuples`).
fn is_silent(node: Node<'_>) -> bool {
    match node {
        Node::SelectStmt(s) => s.into_clause().is_some(),
        Node::InsertStmt(s) => s.returning_clause().is_none(),
        Node::UpdateStmt(s) => s.returning_clause().is_none(),
        Node::DeleteStmt(s) => s.returning_clause().is_none(),
        Node::MergeStmt(s) => s.returning_clause().is_none(),
        Node::CallStmt(_)
        | Node::ExecuteStmt(_)
        | Node::ExplainStmt(_)
        | Node::FetchStmt(_)
        | Node::VariableShowStmt(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_returns_no_rows_is_told_by_its_text() {
        let of = |text: &str| parameters_of_silent(text.as_bytes());
        for silent in [
            "",
            "BEGIN",
            "SET work_mem = '1MB'",
            "INSERT INTO t VALUES (1)",
            "WITH w AS (DELETE FROM t RETURNING v) UPDATE t SET v = 1",
            "SELECT 1 INTO t",
            "COPY t TO STDOUT",
            "DO ''",
            "CLOSE c",
        ] {
            assert_eq!(of(silent), Some(0), "{silent}");
        }
        assert_eq!(of("UPDATE t SET v = $2 WHERE id = $3"), Some(3));
        assert_eq!(of("DECLARE c CURSOR FOR SELECT $1"), Some(1));
        assert_eq!(of("PREPARE p AS SELECT $1"), Some(0), "that is its own");
        for speaks in [
            "SELECT 1",
            "VALUES (1)",
            "TABLE t",
            "INSERT INTO t VALUES (1) RETURNING id",
            "SHOW work_mem",
            "EXPLAIN DELETE FROM t",
            "EXECUTE s",
            "CALL p()",
            "FETCH c",
            "SELEC",
            "BEGIN; COMMIT",
        ] {
            assert_eq!(of(speaks), None, "{speaks}");
        }
    }
}
