//! Which tables, indexes and sequences a utility statement names.
//!
//! They are read off the parse tree: a column, a type or a word of the grammar that is called like a
//! distributed table is none, and a name in another schema is another table's. What a function or DO says
//! is code in a string, which only its words tell of.

use pg_raw_parse::list::NodeList;
use pg_raw_parse::raw::ObjectType;
use pg_raw_parse::{ConstValue, Node, nodes};

use super::functions::name_of;
use crate::sql::tree::{Recurse, walk};

/// A relation as the statement writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub schema: Option<String>,
    pub name: String,
}

/// What a statement is about.
#[derive(Debug, Default)]
pub struct Objects<'a> {
    pub relations: Vec<Written>,
    /// Queries within it, which have names of their own (WITH).
    pub queries: Vec<Node<'a>>,
    /// It holds code, or is of a kind whose tree is not read: its words tell.
    pub by_words: bool,
}

pub fn of(node: Node<'_>) -> Objects<'_> {
    let mut found = Objects::default();
    found.statement(node);
    found
}

impl<'a> Objects<'a> {
    fn statement(&mut self, node: Node<'a>) {
        match node {
            Node::CreateStmt(s) => self.create_table(s),
            Node::CreateTableAsStmt(s) => {
                self.table(s.into().and_then(|i| i.rel()));
                self.query(s.query());
            }
            Node::ViewStmt(s) => {
                self.table(s.view());
                self.query(s.query());
            }
            Node::PrepareStmt(s) => self.query(s.query()),
            Node::IndexStmt(s) => {
                self.table(s.relation());
                s.index_params().iter().for_each(|p| self.expression(p.expr()));
                self.expression(s.where_clause());
            }
            Node::AlterTableStmt(s) => {
                self.table(s.relation());
                s.cmds().iter().for_each(|c| self.command(c));
            }
            Node::RenameStmt(s) => {
                self.table(s.relation());
                self.object(s.rename_type, s.object());
            }
            Node::AlterObjectSchemaStmt(s) => {
                self.table(s.relation());
                self.object(s.object_type, s.object());
            }
            Node::AlterObjectDependsStmt(s) => {
                self.table(s.relation());
                self.object(s.object_type, s.object());
            }
            Node::AlterOwnerStmt(s) => {
                self.table(s.relation());
                self.object(s.object_type, s.object());
            }
            Node::DropStmt(s) => s.objects().iter().for_each(|o| self.object(s.remove_type, o)),
            Node::CommentStmt(s) => self.object(s.objtype, s.object()),
            Node::SecLabelStmt(s) => self.object(s.objtype, s.object()),
            Node::TruncateStmt(s) => s.relations().iter().for_each(|r| self.element(r)),
            Node::LockStmt(s) => s.relations().iter().for_each(|r| self.element(r)),
            Node::CreateTrigStmt(s) => {
                self.table(s.relation());
                self.table(s.constrrel());
                self.expression(s.when_clause());
            }
            Node::RuleStmt(s) => {
                self.table(s.relation());
                s.actions().iter().for_each(|a| self.query(a));
            }
            Node::VacuumStmt(s) => s.rels().iter().for_each(|r| self.table(r.relation())),
            Node::ClusterStmt(s) => self.table(s.relation()),
            Node::ReindexStmt(s) => self.table(s.relation()),
            Node::RefreshMatViewStmt(s) => self.table(s.relation()),
            Node::CreateSeqStmt(s) => {
                self.table(s.sequence());
                self.owned_by(s.options());
            }
            Node::AlterSeqStmt(s) => {
                self.table(s.sequence());
                self.owned_by(s.options());
            }
            Node::CreateStatsStmt(s) => s.relations().iter().for_each(|r| self.table(Some(r))),
            Node::CreatePublicationStmt(s) => s.pubobjects().iter().for_each(|o| self.element(o)),
            Node::AlterPublicationStmt(s) => s.pubobjects().iter().for_each(|o| self.element(o)),
            Node::CreateSchemaStmt(s) => s.schema_elts().iter().for_each(|e| self.statement(e)),
            Node::CreatePolicyStmt(s) => self.policy(s.table(), [s.qual(), s.with_check()]),
            Node::AlterPolicyStmt(s) => self.policy(s.table(), [s.qual(), s.with_check()]),
            Node::CallStmt(_) => self.by_words = true,
            _ if names_no_table(node) => {}
            _ => self.by_words = true,
        }
    }

    fn table(&mut self, table: Option<&nodes::RangeVar>) {
        if let Some(t) = table
            && let Some(name) = t.relname()
        {
            self.relations
                .push(Written { schema: t.schemaname().map(Into::into), name: name.to_owned() });
        }
    }

    fn policy(&mut self, table: Option<&nodes::RangeVar>, conditions: [Node<'a>; 2]) {
        self.table(table);
        conditions.into_iter().for_each(|c| self.expression(c));
    }

    fn query(&mut self, query: Node<'a>) {
        match query {
            Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                self.queries.push(query);
                self.expression(query);
            }
            Node::None | Node::NotifyStmt(_) => {}
            _ => self.by_words = true,
        }
    }

    fn create_table(&mut self, s: &'a nodes::CreateStmt) {
        self.table(s.relation());
        s.inh_relations().iter().for_each(|r| self.element(r));
        s.table_elts().iter().for_each(|e| self.element(e));
        s.constraints().iter().for_each(|c| self.constraint(c));
    }

    /// A part of a table's definition, or one of a list of relations.
    fn element(&mut self, node: Node<'a>) {
        match node {
            Node::RangeVar(r) => self.table(Some(r)),
            Node::ColumnDef(c) => {
                for constraint in c.constraints() {
                    self.element(constraint);
                }
            }
            Node::Constraint(c) => self.constraint(c),
            Node::TableLikeClause(l) => self.table(l.relation()),
            Node::PublicationObjSpec(o) => {
                if let Some(t) = o.pubtable() {
                    self.table(t.relation());
                    self.expression(t.where_clause());
                }
            }
            Node::PublicationTable(t) => self.table(t.relation()),
            _ => self.by_words = true,
        }
    }

    fn constraint(&mut self, c: &'a nodes::Constraint) {
        self.table(c.pktable());
        self.expression(c.raw_expr());
    }

    fn command(&mut self, node: Node<'a>) {
        let Node::AlterTableCmd(c) = node else { return };
        match c.def() {
            Node::ColumnDef(d) => {
                for constraint in d.constraints() {
                    self.element(constraint);
                }
            }
            Node::Constraint(d) => self.constraint(d),
            Node::RangeVar(r) => self.table(Some(r)),
            Node::PartitionCmd(p) => self.table(p.name()),
            // An expression; what else there is names no table.
            def => self.expression(def),
        }
    }

    /// What an expression draws from by a sequence's name, and the tables of its sub-selects.
    fn expression(&mut self, node: Node<'a>) {
        if !is_expression(node) {
            return;
        }
        let mut take = |n: Node<'a>| match n {
            Node::FuncCall(f)
                if name_of(f)
                    .is_some_and(|(_, n)| matches!(n, "nextval" | "setval" | "currval")) =>
            {
                let named = f.args().iter().next().and_then(text_of);
                self.relations.extend(named.and_then(written));
            }
            Node::RangeVar(r) if !matches!(node, Node::SelectStmt(_)) => self.table(Some(r)),
            _ => {}
        };
        take(node);
        walk::<()>(node, |n| {
            take(n);
            Recurse::yes()
        });
    }

    /// OWNED BY table.column
    fn owned_by(&mut self, options: &'a NodeList) {
        for option in options.iter() {
            let Node::DefElem(d) = option else { continue };
            if d.defname() == Some("owned_by")
                && let Some(list) = d.arg().as_node_list()
            {
                self.named(list, 1);
            }
        }
    }

    /// An object of which a statement gives the kind and the name.
    fn object(&mut self, kind: ObjectType::Type, object: Node<'a>) {
        let last = match kind {
            ObjectType::OBJECT_TABLE
            | ObjectType::OBJECT_VIEW
            | ObjectType::OBJECT_MATVIEW
            | ObjectType::OBJECT_INDEX
            | ObjectType::OBJECT_SEQUENCE
            | ObjectType::OBJECT_FOREIGN_TABLE => 0,
            ObjectType::OBJECT_COLUMN
            | ObjectType::OBJECT_TRIGGER
            | ObjectType::OBJECT_RULE
            | ObjectType::OBJECT_POLICY
            | ObjectType::OBJECT_TABCONSTRAINT => 1,
            _ => return,
        };
        if let Some(list) = object.as_node_list() {
            self.named(list, last);
        }
    }

    /// A list of names, of which the last `behind` are of something within the relation.
    fn named(&mut self, list: &'a NodeList, behind: usize) {
        let names: Vec<&str> = list.iter().filter_map(Node::as_str).collect();
        let Some(names) = names.len().checked_sub(behind).and_then(|n| names.get(..n)) else {
            return;
        };
        if let [before @ .., name] = names {
            self.relations.push(Written {
                schema: before.last().map(|s| (*s).to_owned()),
                name: (*name).to_owned(),
            });
        }
    }
}

/// Roles, databases, types and the like: no table has a place in them.
fn names_no_table(node: Node<'_>) -> bool {
    match node {
        Node::CreateRoleStmt(_)
        | Node::AlterRoleStmt(_)
        | Node::AlterRoleSetStmt(_)
        | Node::DropRoleStmt(_)
        | Node::GrantRoleStmt(_)
        | Node::CreatedbStmt(_)
        | Node::DropdbStmt(_)
        | Node::AlterDatabaseStmt(_)
        | Node::AlterDatabaseSetStmt(_)
        | Node::AlterSystemStmt(_)
        | Node::CreateTableSpaceStmt(_)
        | Node::DropTableSpaceStmt(_)
        | Node::CreateEnumStmt(_)
        | Node::AlterEnumStmt(_)
        | Node::CreateExtensionStmt(_)
        | Node::AlterExtensionStmt(_)
        | Node::AlterFunctionStmt(_)
        | Node::AlterDefaultPrivilegesStmt(_)
        | Node::CreateSubscriptionStmt(_)
        | Node::AlterSubscriptionStmt(_)
        | Node::DropSubscriptionStmt(_)
        | Node::CreateEventTrigStmt(_)
        | Node::AlterEventTrigStmt(_)
        | Node::CreateCastStmt(_)
        | Node::CreateOpFamilyStmt(_)
        | Node::CreatePLangStmt(_)
        | Node::CreateDomainStmt(_)
        | Node::AlterDomainStmt(_)
        | Node::CompositeTypeStmt(_)
        | Node::CreateRangeStmt(_)
        | Node::AlterTypeStmt(_)
        | Node::AlterCollationStmt(_)
        | Node::CreateOpClassStmt(_)
        | Node::AlterOpFamilyStmt(_)
        | Node::AlterOperatorStmt(_)
        | Node::CreateFdwStmt(_)
        | Node::AlterFdwStmt(_)
        | Node::CreateForeignServerStmt(_)
        | Node::AlterForeignServerStmt(_)
        | Node::CreateUserMappingStmt(_)
        | Node::AlterUserMappingStmt(_)
        | Node::DropUserMappingStmt(_)
        | Node::CreateAmStmt(_)
        | Node::CreateConversionStmt(_)
        | Node::CreateTransformStmt(_)
        | Node::AlterTSDictionaryStmt(_)
        | Node::AlterTSConfigurationStmt(_)
        | Node::CheckPointStmt(_)
        | Node::ExecuteStmt(_)
        | Node::DropOwnedStmt(_)
        | Node::ReassignOwnedStmt(_) => true,
        Node::DefineStmt(s) => s.kind != ObjectType::OBJECT_AGGREGATE,
        _ => false,
    }
}

/// Whether ALTER SEQUENCE says no more than RESTART.
pub fn only_restarts(s: &nodes::AlterSeqStmt) -> bool {
    let restarts = |o: Node<'_>| matches!(o, Node::DefElem(d) if d.defname() == Some("restart"));
    !s.options().is_empty() && s.options().iter().all(restarts)
}

/// Whether PostgreSQL's walker knows the node.
fn is_expression(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::A_Expr(_)
            | Node::BoolExpr(_)
            | Node::FuncCall(_)
            | Node::TypeCast(_)
            | Node::CaseExpr(_)
            | Node::CoalesceExpr(_)
            | Node::MinMaxExpr(_)
            | Node::NullTest(_)
            | Node::BooleanTest(_)
            | Node::SubLink(_)
            | Node::A_ArrayExpr(_)
            | Node::A_Indirection(_)
            | Node::RowExpr(_)
            | Node::CollateClause(_)
            | Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_)
    )
}

/// The text of a literal, behind a cast or not.
fn text_of(mut node: Node<'_>) -> Option<String> {
    // A loop: casts may be nested deeper than our stack.
    while let Node::TypeCast(cast) = node {
        node = cast.arg();
    }
    let Node::A_Const(c) = node else { return None };
    match c.val()? {
        ConstValue::String(s) => Some(s.to_owned()),
        _ => None,
    }
}

/// A relation's name as regclass reads it.
pub fn written(text: String) -> Option<Written> {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, behind) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut part = String::new();
                let mut from = quoted;
                loop {
                    let (before, after) = from.split_once('"')?;
                    part.push_str(before);
                    match after.strip_prefix('"') {
                        Some(more) => {
                            part.push('"');
                            from = more;
                        }
                        None => break (part, after),
                    }
                }
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (part, behind) = rest.split_at(end);
                (part.trim().to_ascii_lowercase(), behind)
            }
        };
        parts.push(part);
        match behind.trim_start().strip_prefix('.') {
            Some(more) => rest = more.trim_start(),
            None => break,
        }
    }
    let name = parts.pop()?;
    Some(Written { schema: parts.pop(), name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sql: &str) -> Vec<String> {
        let parsed = crate::sql::tree::parse(sql).expect(sql);
        let found = of(parsed.stmts().next().expect(sql));
        assert!(!found.by_words, "{sql}");
        let written = |w: &Written| match &w.schema {
            Some(schema) => format!("{schema}.{}", w.name),
            None => w.name.clone(),
        };
        found.relations.iter().map(written).collect()
    }

    #[test]
    fn relations_are_told_from_other_names() {
        for (sql, expected) in [
            ("CREATE TABLE s.t (id int DEFAULT 1, t text)", &["s.t"][..]),
            (
                "CREATE TABLE t (a int REFERENCES u, FOREIGN KEY (b) REFERENCES s.v (c))",
                &["t", "u", "s.v"],
            ),
            ("CREATE TABLE t (LIKE u, a int DEFAULT nextval('s.\"Q\"\"\"'))", &["t", "u", "s.Q\""]),
            ("CREATE TABLE t PARTITION OF p FOR VALUES IN (1)", &["t", "p"]),
            ("ALTER TABLE t ADD a int DEFAULT nextval('q'::regclass)", &["t", "q"]),
            ("ALTER TABLE t ATTACH PARTITION u DEFAULT", &["t", "u"]),
            ("ALTER TABLE t INHERIT u", &["t", "u"]),
            ("ALTER TABLE t RENAME a TO u", &["t"]),
            ("ALTER INDEX s.i RENAME TO j", &["s.i"]),
            ("ALTER SEQUENCE q OWNED BY s.t.a", &["q", "s.t"]),
            ("DROP TABLE a, s.b", &["a", "s.b"]),
            ("DROP TRIGGER x ON s.t", &["s.t"]),
            ("DROP FUNCTION t(int)", &[]),
            ("DROP TYPE t CASCADE", &[]),
            ("COMMENT ON COLUMN s.t.a IS 'u'", &["s.t"]),
            ("COMMENT ON TABLE t IS 'u'", &["t"]),
            ("COMMENT ON FUNCTION t(int) IS 'u'", &[]),
            ("VACUUM ANALYZE a (b), s.c", &["a", "s.c"]),
            ("LOCK TABLE a, b", &["a", "b"]),
            ("REINDEX INDEX i", &["i"]),
            ("CREATE TRIGGER t BEFORE INSERT ON u EXECUTE FUNCTION v()", &["u"]),
            ("CREATE PUBLICATION t FOR TABLE a, s.b WHERE (x > 1)", &["a", "s.b"]),
            ("CREATE STATISTICS t ON a, b FROM u", &["u"]),
            ("CREATE SCHEMA s CREATE TABLE t (a int)", &["t"]),
            ("CREATE DOMAIN t AS int", &[]),
            ("CREATE TYPE t AS ENUM ('u')", &[]),
        ] {
            assert_eq!(names(sql), expected, "{sql}");
        }
    }
}
