//! A distributed table as the home node's catalogs describe it, and the DDL that makes the same
//! parent elsewhere.
//!
//! The client's own CREATE TABLE runs on the home node only. There PostgreSQL judges it, resolves
//! its names and says what came of it; the other nodes, and every node added later, are given what
//! the home node says. So all parents agree whatever search path or grammar made the first one.
//! Owner, grants and row security are not part of it (see `access`). Must be read with `search_path = pg_catalog`: then PostgreSQL qualifies every name it prints.

use postgres_protocol::escape::escape_identifier as ident;
use tokio_postgres::{GenericClient, Row};

use super::slots::Sequence;
use super::{DdlError, Peer};
use crate::hash::KeyType;
use crate::topology::ColumnRow;

/// A distribution column, with what PostgreSQL hashes it by.
#[derive(Debug, Clone)]
struct KeyColumn {
    /// Empty: an expression.
    name: Option<String>,
    type_name: String,
    key_type: Option<KeyType>,
    default_operators: bool,
    deterministic: bool,
    /// It is declared with a length, a precision or a scale.
    limited: bool,
    is_enum: bool,
}

/// A column, told from others by its number, which it keeps when it is renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub number: i16,
    pub name: String,
    pub type_name: String,
    /// The type, and the collation if it is not the type's own.
    pub kind: String,
    pub not_null: bool,
    /// What a row gets that says nothing; not what a generated column is computed from.
    pub default: Option<String>,
    /// The default is a literal.
    pub is_constant: bool,
    pub is_generated: bool,
}

/// A distributed table's parent.
#[derive(Debug, Clone)]
pub struct Shape {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub column_names: Vec<String>,
    pub column_types: Vec<u32>,
    key: Vec<KeyColumn>,
    partition_key: String,
    pub columns: Vec<Column>,
    column_clauses: Vec<String>,
    /// As ALTER TABLE takes them.
    pub column_settings: Vec<String>,
    pub constraints: Vec<String>,
    indexes: Vec<String>,
    pub sequences: Vec<Sequence>,
}

impl Shape {
    pub async fn read<C: GenericClient + Sync>(client: &C, oid: u32) -> Result<Self, DdlError> {
        Self::read_as(client, oid, "p", false).await
    }

    /// Of a reference table, or one that is to be one.
    pub async fn of_reference<C: GenericClient + Sync>(
        client: &C,
        oid: u32,
    ) -> Result<Self, DdlError> {
        Self::read_as(client, oid, "r", false).await
    }

    /// Of a local table that is to be distributed by these columns: the parent's then.
    pub async fn to_distribute<C: GenericClient + Sync>(
        client: &C,
        oid: u32,
        key: &[String],
    ) -> Result<Self, DdlError> {
        let mut shape = Self::read_as(client, oid, "r", true).await?;
        let key: Vec<String> = key.iter().map(|c| ident(c)).collect();
        shape.partition_key = format!("HASH ({})", key.join(", "));
        Ok(shape)
    }

    /// Of the local table that a distributed one is to become.
    pub fn without_key(mut self) -> Self {
        self.partition_key.clear();
        self
    }

    async fn read_as<C: GenericClient + Sync>(
        client: &C,
        oid: u32,
        kind: &str,
        distributes: bool,
    ) -> Result<Self, DdlError> {
        let row =
            client.query_opt(TABLE, &[&oid, &kind, &distributes]).await?.ok_or_else(|| {
                DdlError::new("42809", "the relation is not a table that can be on all nodes")
            })?;
        let mut shape = Self {
            oid,
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            partition_key: row.try_get(2)?,
            column_names: Vec::new(),
            column_types: Vec::new(),
            key: Vec::new(),
            columns: Vec::new(),
            column_clauses: Vec::new(),
            column_settings: Vec::new(),
            constraints: Vec::new(),
            indexes: Vec::new(),
            sequences: Vec::new(),
        };
        let unknown: Option<String> = row.try_get(3)?;
        if let Some(what) = unknown {
            return Err(DdlError::unsupported(format!(
                "table \"{}\" has {what}, which pgshunt cannot make on all nodes",
                shape.name
            ))
            .hint("If it was made on a node directly, drop it there."));
        }
        for row in client.query(KEY, &[&oid]).await? {
            let type_oid: Option<u32> = row.try_get(2)?;
            shape.key.push(KeyColumn {
                name: row.try_get(0)?,
                type_name: row.try_get::<_, Option<String>>(1)?.unwrap_or_default(),
                key_type: type_oid.and_then(KeyType::from_oid),
                default_operators: row.try_get(3)?,
                deterministic: row.try_get(4)?,
                limited: row.try_get(5)?,
                is_enum: row.try_get(6)?,
            });
        }
        shape.sequences = Sequence::of_table(client, oid).await?;
        for row in client.query(COLUMNS, &[&oid]).await? {
            shape.add_column(&row)?;
        }
        for row in client.query(CONSTRAINTS, &[&oid]).await? {
            shape.constraints.push(row.try_get(0)?);
        }
        for row in client.query(INDEXES, &[&oid]).await? {
            shape.indexes.push(row.try_get(0)?);
        }
        Ok(shape)
    }

    fn add_column(&mut self, row: &Row) -> Result<(), DdlError> {
        let name: String = row.try_get(0)?;
        let type_name: String = row.try_get(1)?;
        let not_null: bool = row.try_get(2)?;
        let identity: String = row.try_get(3)?;
        let generated: String = row.try_get(4)?;
        let default: Option<String> = row.try_get(5)?;
        let collation: Option<String> = row.try_get(6)?;
        let storage: Option<String> = row.try_get(7)?;
        let compression: Option<String> = row.try_get(8)?;
        self.column_types.push(row.try_get(9)?);

        let collate = collation.map(|c| format!(" COLLATE {c}")).unwrap_or_default();
        let kind = format!("{type_name}{collate}");
        let mut clause = format!("{} {kind}", ident(&name));
        self.columns.push(Column {
            number: row.try_get(10)?,
            name: name.clone(),
            type_name,
            kind,
            not_null,
            default: default.clone().filter(|_| generated.is_empty()),
            is_constant: row.try_get(11)?,
            is_generated: !generated.is_empty(),
        });
        match (generated.as_str(), identity.as_str(), default) {
            ("s", _, Some(expression)) => {
                clause += &format!(" GENERATED ALWAYS AS ({expression}) STORED");
            }
            ("v", _, Some(expression)) => {
                clause += &format!(" GENERATED ALWAYS AS ({expression}) VIRTUAL");
            }
            ("", "", Some(expression)) => clause += &format!(" DEFAULT {expression}"),
            ("", "", None) => {}
            ("", kind @ ("a" | "d"), None) => {
                let when = if kind == "a" { "ALWAYS" } else { "BY DEFAULT" };
                clause += &format!(" GENERATED {when} AS IDENTITY");
                // By the name it has here; what it counts by is said once the slot is known.
                let its = |s: &&Sequence| s.identity && s.column == name;
                if let Some(sequence) = self.sequences.iter().find(its) {
                    clause += &format!(" (SEQUENCE NAME {})", sequence.quoted());
                }
            }
            _ => {
                return Err(DdlError::unsupported(format!(
                    "column \"{name}\" has a default pgshunt does not know"
                )));
            }
        }
        if not_null {
            clause += " NOT NULL";
        }
        let set =
            |what: &str, value: String| format!("ALTER COLUMN {} SET {what} {value}", ident(&name));
        self.column_settings.extend(storage.map(|s| set("STORAGE", s)));
        self.column_settings.extend(compression.map(|c| set("COMPRESSION", c)));
        self.column_clauses.push(clause);
        self.column_names.push(name);
        Ok(())
    }

    pub fn quoted(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }

    pub fn column(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|c| c.number == number)
    }

    pub fn same_columns(&self, other: &Self) -> bool {
        (&self.column_names, &self.column_clauses) == (&other.column_names, &other.column_clauses)
            && self.partition_key == other.partition_key
    }

    pub fn column_rows(&self) -> Vec<ColumnRow> {
        let types = self.column_types.iter();
        let row = |(name, &type_oid): (&String, &u32)| ColumnRow { name: name.clone(), type_oid };
        self.column_names.iter().zip(types).map(row).collect()
    }

    pub fn key_columns(&self) -> Vec<String> {
        self.key.iter().filter_map(|k| k.name.clone()).collect()
    }

    /// The key's types.
    ///
    /// # Errors
    /// When the proxy could not compute the same hash as PostgreSQL.
    pub fn key_types(&self) -> Result<Vec<KeyType>, DdlError> {
        self.key.iter().map(|k| k.checked()).collect()
    }

    /// What makes this parent on a node that has neither it nor its sequences.
    pub fn create_statements(&self, sequences: &[Sequence]) -> Vec<String> {
        let mut statements = Vec::new();
        for s in sequences.iter().filter(|s| !s.identity) {
            statements.push(format!(
                "CREATE SEQUENCE {} AS {} {}",
                s.quoted(),
                s.data_type,
                s.options()
            ));
        }
        let elements: Vec<&str> =
            self.column_clauses.iter().chain(&self.constraints).map(String::as_str).collect();
        let table = format!("CREATE TABLE {} ({})", self.quoted(), elements.join(", "));
        statements.push(match self.partition_key.as_str() {
            "" => table,
            key => format!("{table} PARTITION BY {key}"),
        });
        if !self.column_settings.is_empty() {
            statements.push(format!(
                "ALTER TABLE {} {}",
                self.quoted(),
                self.column_settings.join(", ")
            ));
        }
        for s in sequences {
            if s.identity {
                statements.push(format!("ALTER SEQUENCE {} {} RESTART", s.quoted(), s.options()));
            } else {
                statements.push(format!(
                    "ALTER SEQUENCE {} OWNED BY {}.{}",
                    s.quoted(),
                    self.quoted(),
                    ident(&s.column)
                ));
            }
        }
        statements.extend(self.indexes.iter().cloned());
        statements
    }

    /// What makes the leaf of one shard, attached to the parent. `schema` is the shard's.
    pub fn leaf_statements(&self, schema: &str, modulus: u32, remainder: u32) -> Vec<String> {
        let leaf = format!("{schema}.{}", ident(&self.name));
        vec![
            format!("CREATE SCHEMA IF NOT EXISTS {schema}"),
            format!("GRANT USAGE ON SCHEMA {schema} TO PUBLIC"),
            format!(
                "CREATE TABLE {leaf} PARTITION OF {} \
                 FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder})",
                self.quoted()
            ),
        ]
    }
}

/// Gives the indexes of all leaves of a parent the names the parent's have, so that errors name what the
/// application knows. A name that is taken in the shard's schema is left as PostgreSQL chose it.
pub async fn name_leaf_indexes(peer: &Peer, schema: &str, name: &str) -> Result<(), DdlError> {
    const OTHERS: &str = "\
        SELECT n.nspname::text, ci.relname::text, pi.relname::text \
        FROM pg_class c JOIN pg_namespace cn ON cn.oid = c.relnamespace \
          JOIN pg_index p ON p.indrelid = c.oid JOIN pg_class pi ON pi.oid = p.indexrelid \
          JOIN pg_inherits h ON h.inhparent = p.indexrelid \
          JOIN pg_class ci ON ci.oid = h.inhrelid JOIN pg_namespace n ON n.oid = ci.relnamespace \
        WHERE cn.nspname = $1::text::name AND c.relname = $2::text::name \
          AND n.nspname LIKE 'shard\\_%' AND ci.relname <> pi.relname AND NOT EXISTS ( \
            SELECT FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = pi.relname)";
    let mut renames = Vec::new();
    for row in peer.client.query(OTHERS, &[&schema, &name]).await? {
        let (shard, has, wants): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (shard, has, wants) = (ident(&shard), ident(&has), ident(&wants));
        renames.push(format!("ALTER INDEX {shard}.{has} RENAME TO {wants}"));
    }
    peer.run(&renames.join("; ")).await
}

impl KeyColumn {
    fn checked(&self) -> Result<KeyType, DdlError> {
        let Some(name) = &self.name else {
            return Err(DdlError::unsupported("a distribution key cannot contain expressions")
                .hint("Distribute by columns: PARTITION BY HASH (column, ...)."));
        };
        let no = || {
            DdlError::unsupported(format!(
                "column \"{name}\" of type {} cannot be a distribution column",
                self.type_name
            ))
        };
        let key_type = match self.key_type {
            Some(key_type) => key_type,
            None if self.is_enum => {
                return Err(no()
                    .detail("PostgreSQL hashes an enum's values by numbers that differ from node to node.")
                    .hint("Use text with a CHECK, or distribute by another column."));
            }
            None => return Err(no().hint(KeyType::HINT)),
        };
        if self.limited && key_type.is_rounded() {
            return Err(no()
                .detail(
                    "Values would be rounded where they are stored, and their hash be another one.",
                )
                .hint("Leave precision and scale away; a CHECK can limit the values."));
        }
        if !self.default_operators {
            return Err(DdlError::unsupported(format!(
                "distribution column \"{name}\" has an operator class of its own"
            ))
            .hint("Leave the operator class away."));
        }
        if !self.deterministic {
            return Err(DdlError::unsupported(format!(
                "distribution column \"{name}\" has a non-deterministic collation"
            ))
            .detail("Equal texts of different bytes would belong to one shard.")
            .hint("Give the column a deterministic collation."));
        }
        Ok(key_type)
    }
}

const TABLE: &str = "\
SELECT n.nspname::text, c.relname::text, coalesce(pg_get_partkeydef(c.oid), ''),
  CASE WHEN c.relpersistence <> 'p' THEN 'another persistence than permanent'
    WHEN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
      THEN (SELECT concat('the trigger ', quote_ident(min(tgname::text))) FROM pg_trigger
        WHERE tgrelid = c.oid AND NOT tgisinternal)
    -- One that refers to a reference table is the other table's, and each node can check it.
    WHEN EXISTS (SELECT FROM pg_constraint f
        WHERE (c.oid = conrelid OR c.oid = confrelid AND (c.relkind = 'p' OR $3)) AND contype = 'f' AND (c.relkind = 'r' AND NOT $3 OR NOT EXISTS (SELECT FROM pg_constraint m
          WHERE m.conrelid = f.confrelid AND m.contype = 'c' AND m.conname = 'pgshunt_reference')))
      THEN (SELECT concat('the foreign key ', quote_ident(min(conname::text))) FROM pg_constraint f
        WHERE (c.oid = conrelid OR c.oid = confrelid AND (c.relkind = 'p' OR $3)) AND contype = 'f' AND (c.relkind = 'r' AND NOT $3 OR NOT EXISTS (SELECT FROM pg_constraint m
          WHERE m.conrelid = f.confrelid AND m.contype = 'c' AND m.conname = 'pgshunt_reference')))
    WHEN c.relispartition OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) THEN 'a parent'
    WHEN c.reltablespace <> 0 THEN 'a tablespace'
    -- A default that draws from somebody else's sequence: it exists here only, or collides.
    WHEN EXISTS (
      SELECT FROM pg_attrdef d
        JOIN pg_depend u ON u.classid = 'pg_attrdef'::regclass AND u.objid = d.oid
          AND u.refclassid = 'pg_class'::regclass
        JOIN pg_class s ON s.oid = u.refobjid AND s.relkind = 'S'
      WHERE d.adrelid = c.oid AND NOT EXISTS (
        SELECT FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND o.objid = s.oid
          AND o.refclassid = 'pg_class'::regclass AND o.refobjid = c.oid AND o.deptype IN ('a', 'i')))
      THEN 'a default from a sequence it does not own'
  END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1 AND c.relkind::text = $2";

const KEY: &str = "\
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid,
  coalesce(o.opcdefault AND o.opcnamespace = 'pg_catalog'::regnamespace, false),
  coalesce(l.collisdeterministic, true), coalesce(a.atttypmod <> -1, false),
  coalesce((SELECT typtype = 'e' FROM pg_type WHERE oid = a.atttypid), false)
FROM pg_partitioned_table p CROSS JOIN LATERAL
  unnest(p.partattrs::int2[], p.partclass::oid[], p.partcollation::oid[])
    WITH ORDINALITY AS k (attnum, opclass, collation_oid, nth)
  LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum AND k.attnum <> 0
  LEFT JOIN pg_opclass o ON o.oid = k.opclass
  LEFT JOIN pg_collation l ON l.oid = k.collation_oid
WHERE p.partrelid = $1 ORDER BY k.nth";

const COLUMNS: &str = "\
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
  a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid),
  CASE WHEN a.attcollation <> t.typcollation AND l.oid IS NOT NULL
    THEN format('%I.%I', ln.nspname, l.collname) END,
  CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN'
    WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' WHEN 'x' THEN 'EXTENDED' END END,
  CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
  a.atttypid, a.attnum, coalesce(d.adbin::text ~ '^\\{(COERCETODOMAIN :arg \\{)?CONST ', false)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
  LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const CONSTRAINTS: &str = "\
SELECT format('CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE conrelid = $1 AND contype IN ('p', 'u', 'x', 'c', 'f') ORDER BY contype, conname";

const INDEXES: &str = "\
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i
WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid
  AND c.conrelid = $1) ORDER BY i.indexrelid";
