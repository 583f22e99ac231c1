//! What a client reads in PostgreSQL's catalogs: its tables, and not the shards that they consist of, nor anything else
//! of pgshunt's own.
//!
//! A catalog that would show them is read by way of a query that leaves them out: it is put where the query names the
//! catalog, and bears its name, so that all else of the text means what it meant. Numbers of objects that a client has
//! from elsewhere (`pg_depend`, a regclass) are not looked at. For pg_dump a distributed table is a plain one, whose rows it
//! asks for; with `pgshunt.show_shards` a session sees all there is.

use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::plan::Instead;
use super::scope::{Named, Sees};

/// The schemas of which nothing is seen.
const OURS: &str = "SELECT n.oid FROM pg_catalog.pg_namespace n WHERE \
    n.nspname OPERATOR(pg_catalog.~) '^shard_[0-9]+$' OR n.nspname OPERATOR(pg_catalog.=) 'pgshunt'";

/// What of a catalog tells whose a row is.
#[derive(Clone, Copy)]
enum By {
    /// The number of a schema.
    Schema(&'static str),
    /// The number of a relation.
    Relation(&'static str),
    /// The name of a schema.
    Name(&'static str),
}

fn of_catalog(name: &str) -> Option<By> {
    Some(match name {
        "pg_class" => By::Schema("relnamespace"),
        "pg_namespace" => By::Name("nspname"),
        "pg_type" => By::Schema("typnamespace"),
        "pg_proc" => By::Schema("pronamespace"),
        "pg_constraint" => By::Schema("connamespace"),
        "pg_index" => By::Relation("indrelid"),
        "pg_attribute" => By::Relation("attrelid"),
        "pg_attrdef" => By::Relation("adrelid"),
        "pg_inherits" => By::Relation("inhrelid"),
        "pg_trigger" => By::Relation("tgrelid"),
        "pg_policy" => By::Relation("polrelid"),
        "pg_partitioned_table" => By::Relation("partrelid"),
        "pg_sequence" => By::Relation("seqrelid"),
        "pg_tables"
        | "pg_indexes"
        | "pg_views"
        | "pg_matviews"
        | "pg_sequences"
        | "pg_policies"
        | "pg_stats"
        | "pg_stat_all_tables"
        | "pg_stat_user_tables"
        | "pg_stat_all_indexes"
        | "pg_stat_user_indexes"
        | "pg_statio_all_tables"
        | "pg_statio_user_tables"
        | "pg_statio_all_indexes"
        | "pg_statio_user_indexes"
        | "pg_stat_xact_user_tables"
        | "pg_statio_user_sequences"
        | "pg_statio_all_sequences" => By::Name("schemaname"),
        _ => return None,
    })
}

fn of_information_schema(name: &str) -> Option<By> {
    Some(match name {
        "schemata" => By::Name("schema_name"),
        "tables"
        | "columns"
        | "views"
        | "table_privileges"
        | "column_privileges"
        | "role_table_grants"
        | "role_column_grants"
        | "constraint_table_usage" => By::Name("table_schema"),
        "table_constraints"
        | "key_column_usage"
        | "constraint_column_usage"
        | "check_constraints"
        | "referential_constraints" => By::Name("constraint_schema"),
        "sequences" => By::Name("sequence_schema"),
        "routines" => By::Name("routine_schema"),
        "parameters" => By::Name("specific_schema"),
        "triggers" => By::Name("trigger_schema"),
        "usage_privileges" | "element_types" | "udt_privileges" => By::Name(match name {
            "udt_privileges" => "udt_schema",
            _ => "object_schema",
        }),
        _ => return None,
    })
}

/// What stands in the text in place of the catalogs that it names.
pub fn instead(cx: Context<'_>) -> Vec<Instead> {
    let facts = cx.facts;
    let as_it_is = cx.names.schema.is_plain()
        || cx.names.sees == Sees::Shards
        || facts.changes_rows
        || facts.locks_rows;
    if as_it_is {
        return Vec::new();
    }
    let mut all = Vec::new();
    for relation in &facts.relations {
        let found = matches!(relation.named, Named::Local).then(|| Catalog::of(relation.node));
        let Some(catalog) = found.flatten() else { continue };
        // A text that is written in a way not known here is left as it is.
        let Some(instead) = catalog.instead(relation.node, cx) else { return Vec::new() };
        all.push(instead);
        if relation.node.alias().is_some() {
            continue;
        }
        let columns = facts.columns.iter().chain(&facts.expanded);
        for column in columns.filter(|c| catalog.is_named_by(c)) {
            let Some(instead) = catalog.without_schema(column, cx) else { return Vec::new() };
            if !all.contains(&instead) {
                all.push(instead);
            }
        }
    }
    all
}

/// A catalog that would show what is not to be seen.
#[derive(Clone, Copy)]
struct Catalog<'a> {
    schema: &'static str,
    name: &'a str,
    by: By,
}

impl<'a> Catalog<'a> {
    fn of(rv: &'a nodes::RangeVar) -> Option<Self> {
        let name = rv.relname()?;
        let (schema, by) = match rv.schemaname() {
            None | Some("pg_catalog") => ("pg_catalog", of_catalog(name)?),
            Some("information_schema") => ("information_schema", of_information_schema(name)?),
            Some(_) => return None,
        };
        Some(Self { schema, name, by })
    }

    /// The column is written with the names of the schema and the catalog.
    fn is_named_by(&self, column: &nodes::ColumnRef) -> bool {
        let mut names = column.fields().iter().map(Node::as_str);
        (names.next(), names.next()) == (Some(Some(self.schema)), Some(Some(self.name)))
    }

    /// What stands in its place has no schema.
    fn without_schema(&self, column: &nodes::ColumnRef, cx: Context<'_>) -> Option<Instead> {
        let at = usize::try_from(column.location).ok()?;
        let end = at + length(cx.text.get(at..)?, Some(self.schema), self.name)?;
        Some(Instead { at, end, text: self.name.to_owned() })
    }

    fn instead(&self, rv: &nodes::RangeVar, cx: Context<'_>) -> Option<Instead> {
        let Self { schema, name, by } = *self;
        let at = usize::try_from(rv.location).ok().filter(|_| rv.inh)?;
        let end = at + length(cx.text.get(at..)?, rv.schemaname(), name)?;
        let condition = match by {
            By::Schema(column) => format!("c.{column} OPERATOR(pg_catalog.<>) ALL ({OURS})"),
            By::Relation(column) => format!(
                "NOT EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid OPERATOR(pg_catalog.=) c.{column} \
                 AND r.relnamespace OPERATOR(pg_catalog.=) ANY ({OURS}))"
            ),
            By::Name(column) => format!(
                "c.{column} OPERATOR(pg_catalog.!~) '^shard_[0-9]+$' AND c.{column} OPERATOR(pg_catalog.<>) 'pgshunt'"
            ),
        };
        // What the server has of each row besides its columns.
        let mut columns: Vec<String> = ["tableoid", "xmin", "xmax", "cmin", "cmax", "ctid"]
            .iter()
            .filter(|c| schema == "pg_catalog" && by_itself(cx, c))
            .map(|c| format!("c.{c}"))
            .collect();
        columns.push(match (name, cx.names.sees) {
            ("pg_class", Sees::Dump) => dumped(cx.functions.server_major()),
            _ => "c.*".to_owned(),
        });
        let alias = if rv.alias().is_some() { String::new() } else { format!(" AS {name}") };
        let columns = columns.join(", ");
        let text = format!("(SELECT {columns} FROM {schema}.{name} c WHERE {condition}){alias}");
        Some(Instead { at, end, text })
    }
}

/// Whether the text reads a column of this name.
fn by_itself(cx: Context<'_>, column: &str) -> bool {
    let is_last = |c: &&nodes::ColumnRef| {
        c.fields().iter().filter_map(Node::as_str).next_back() == Some(column)
    };
    cx.facts.columns.iter().copied().any(|c| is_last(&c))
}

/// The columns of pg_class, in which a distributed table is a plain one.
fn dumped(major: u32) -> String {
    const FIRST: &str = "c.oid, c.relname, c.relnamespace, c.reltype, c.reloftype, c.relowner, c.relam, c.relfilenode, \
        c.reltablespace, c.relpages, c.reltuples, c.relallvisible";
    const REST: &str = "c.reltoastrelid, c.relhasindex, c.relisshared, c.relpersistence, \
        CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'p' AND EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p \
          WHERE p.partrelid OPERATOR(pg_catalog.=) c.oid AND p.partstrat OPERATOR(pg_catalog.=) 'h') \
          THEN 'r'::pg_catalog.\"char\" ELSE c.relkind END AS relkind, \
        c.relnatts, c.relchecks, c.relhasrules, c.relhastriggers, c.relhassubclass, c.relrowsecurity, \
        c.relforcerowsecurity, c.relispopulated, c.relreplident, c.relispartition, c.relrewrite, c.relfrozenxid, \
        c.relminmxid, c.relacl, c.reloptions, c.relpartbound";
    let frozen = if major >= 18 { ", c.relallfrozen" } else { "" };
    format!("{FIRST}{frozen}, {REST}")
}

/// How long the name is as the text writes it; `None`: it is written in a way that is not known here.
fn length(text: &[u8], schema: Option<&str>, name: &str) -> Option<usize> {
    let forms = match schema {
        None => vec![name.to_owned(), format!("\"{name}\"")],
        Some(s) => vec![
            format!("{s}.{name}"),
            format!("\"{s}\".\"{name}\""),
            format!("{s}.\"{name}\""),
            format!("\"{s}\".{name}"),
        ],
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80;
    let fits = |form: &&String| {
        text.get(..form.len()).is_some_and(|t| t.eq_ignore_ascii_case(form.as_bytes()))
            && (form.ends_with('"') || text.get(form.len()).is_none_or(|b| !word(*b)))
    };
    forms.iter().find(fits).map(String::len)
}
