//! What there is around the distributed tables at home that the router must know of: read with the rest of
//! the routing table.

use std::sync::Arc;

use tokio_postgres::Transaction;

use crate::topology::{Around, ColumnDefault};

/// Reads it, in the transaction that reads the catalog.
pub(super) async fn read(tx: &Transaction<'_>) -> Result<Around, tokio_postgres::Error> {
    let pairs = async |sql: &str| -> Result<Vec<(String, String)>, tokio_postgres::Error> {
        tx.query(sql, &[]).await?.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?))).collect()
    };
    let defaults = async |sql: &str| -> Result<Arc<[ColumnDefault]>, tokio_postgres::Error> {
        let rows = tx.query(sql, &[]).await?;
        let read = |r: &tokio_postgres::Row| {
            let (schema, table) = (r.try_get(0)?, r.try_get(1)?);
            let (column, expression) = (r.try_get(2)?, r.try_get(3)?);
            Ok(ColumnDefault { schema, table, column, expression })
        };
        rows.iter().map(read).collect()
    };
    let schemas = tx.query(ROLES_SCHEMAS, &[]).await?;
    Ok(Around {
        sequences: pairs(SEQUENCES).await?.into(),
        indexes: pairs(INDEXES).await?.into(),
        namesakes: pairs(NAMESAKES).await?.into(),
        roles_schemas: schemas.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?,
        needs_others: tx.query_opt(NEEDS_OTHERS, &[]).await?.is_some(),
        with_policies: pairs(WITH_POLICIES).await?.into(),
        with_statement_triggers: pairs(WITH_STATEMENT_TRIGGERS).await?.into(),
        generated: tx
            .query(GENERATED, &[])
            .await?
            .iter()
            .map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?,
        defaults: tx
            .query(DEFAULTS, &[])
            .await?
            .iter()
            .map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?, r.try_get(3)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?,
        key_defaults: defaults(KEY_DEFAULTS).await?,
        timed_defaults: defaults(TIMED_DEFAULTS).await?,
        own_operators: tx.query_one(OWN_OPERATORS, &[]).await?.try_get(0)?,
    })
}

const SEQUENCES: &str = "\
SELECT sn.nspname::text, s.relname::text FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
  JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass
    AND d.refobjid = c.oid AND d.classid = d.refclassid AND d.deptype IN ('a', 'i')
  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace";

const INDEXES: &str = "\
SELECT n.nspname::text, x.relname::text FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
  JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid";

/// Relations of the home node alone that have the name of a distributed table.
const NAMESAKES: &str = "\
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname IN (SELECT t.table_name FROM pgshunt.tables t) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname !~ '^(pg_temp_|shard_[0-9]+$)' AND NOT EXISTS (SELECT FROM pgshunt.tables t
    WHERE t.schema_name = n.nspname AND t.table_name = c.relname)";

/// Schemas that \"$user\" means for somebody.
const ROLES_SCHEMAS: &str = "\
SELECT n.nspname::text FROM pg_catalog.pg_namespace n
WHERE n.nspname IN (SELECT r.rolname FROM pg_catalog.pg_roles r)";

/// Whether a distributed table uses a function, type or the like that PostgreSQL did not come with.
const NEEDS_OTHERS: &str = "\
WITH tables AS (
  SELECT c.oid FROM pgshunt.tables t JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name),
parts (classid, objid) AS (
  SELECT 'pg_catalog.pg_class'::regclass::oid, oid FROM tables
  UNION ALL SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i
    JOIN tables t ON t.oid = i.indrelid
  UNION ALL SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid FROM pg_catalog.pg_attrdef d
    JOIN tables t ON t.oid = d.adrelid
  UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k
    JOIN tables t ON t.oid = k.conrelid
  UNION ALL SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy p
    JOIN tables t ON t.oid = p.polrelid)
SELECT FROM parts p JOIN pg_catalog.pg_depend d USING (classid, objid)
WHERE d.refclassid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_namespace'::regclass,
  'pg_catalog.pg_constraint'::regclass) LIMIT 1";

const WITH_POLICIES: &str = "\
SELECT n.nspname::text, c.relname::text FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
WHERE EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)";

/// `TRIGGER_TYPE_ROW` is 1, `TRIGGER_TYPE_INSERT` 4.
const WITH_STATEMENT_TRIGGERS: &str = "\
SELECT n.nspname::text, c.relname::text FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
WHERE EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
  AND g.tgtype & 1 = 0 AND g.tgtype & 4 <> 0)";

const GENERATED: &str = "\
SELECT n.nspname::text, c.relname::text, a.attname::text FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped";

/// Of reference tables. An identity column draws from its sequence; of one that is GENERATED ALWAYS the sequence is
/// not told, as no value could be given to it.
const DEFAULTS: &str = "\
SELECT n.nspname::text, c.relname::text, a.attname::text, CASE WHEN a.attidentity = '' THEN
    pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  ELSE coalesce((SELECT pg_catalog.format('pg_catalog.nextval(%L::pg_catalog.regclass)',
      pg_catalog.format('%I.%I', sn.nspname, s.relname))
    FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_class s ON s.oid = x.objid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
    WHERE x.refclassid = 'pg_catalog.pg_class'::regclass AND x.refobjid = c.oid AND x.refobjsubid = a.attnum
      AND x.classid = x.refclassid AND x.deptype = 'i' AND a.attidentity = 'd'), 'pg_catalog.nextval()') END
FROM pgshunt.tables t JOIN pgshunt.colocation_groups g ON g.group_id = t.group_id AND g.shard_count = 0
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attgenerated = ''
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE d.oid IS NOT NULL OR a.attidentity <> ''";

/// Of an identity column it is what PostgreSQL would draw from its sequence.
const KEY_DEFAULTS: &str = "\
SELECT n.nspname::text, c.relname::text, a.attname::text, CASE WHEN a.attidentity = ''
  THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  ELSE pg_catalog.format('pg_catalog.nextval(%L::pg_catalog.regclass)', pg_catalog.format('%I.%I', sn.nspname, s.relname))
  END
FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (t.key_columns) AND a.attgenerated = '' AND a.attidentity <> 'a'
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  LEFT JOIN pg_catalog.pg_depend x ON x.refclassid = 'pg_catalog.pg_class'::regclass AND x.refobjid = c.oid
    AND x.refobjsubid = a.attnum AND x.classid = x.refclassid AND x.deptype = 'i' AND a.attidentity <> ''
  LEFT JOIN pg_catalog.pg_class s ON s.oid = x.objid AND s.relkind = 'S'
  LEFT JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
WHERE a.attidentity = '' AND d.oid IS NOT NULL OR s.oid IS NOT NULL
ORDER BY c.oid, a.attnum";

/// Defaults that call `now()`, `transaction_timestamp()` or `statement_timestamp()`, or are CURRENT_DATE and
/// the like. Only names that are found without a path are written without their schema.
const TIMED_DEFAULTS: &str = "\
SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM pgshunt.tables t
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
  JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum AND a.attgenerated = ''
    AND NOT a.attisdropped
WHERE d.adbin::text ~ ':funcid (1299|2647|2648) |SQLVALUEFUNCTION'
ORDER BY c.oid, a.attnum";

/// Whether an operator or a cast may do more than compute. Only functions in C that are declared free of
/// effects are believed: SQL and procedural languages may call anything, whatever is declared, and so may
/// a function of the server's own that was not meant for an operator.
const OWN_OPERATORS: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE (p.provolatile = 'v' OR l.lanname <> 'c') AND (
  EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oid >= 16384 AND o.oprcode = p.oid)
  OR EXISTS (SELECT FROM pg_catalog.pg_cast k WHERE k.oid >= 16384 AND k.castfunc = p.oid)))";
