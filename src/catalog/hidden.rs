//! Reading what leads to distributed tables under other names, off the home node's own catalogs.

use tokio_postgres::GenericClient;

use crate::topology::hidden::{Hidden, Object, Routine, Use, Uses};

/// The distributed tables and their leaves.
const TABLES: &str = "
WITH d AS (
  SELECT c.oid, t.table_name FROM pgshunt.tables t
    JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name)
SELECT oid, table_name::text FROM d
UNION ALL SELECT i.inhrelid, d.table_name::text FROM pg_catalog.pg_inherits i JOIN d ON d.oid = i.inhparent";

const ROUTINES: &str = "
SELECT p.oid, p.proname::text, l.lanname::text, p.prosrc
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid >= 16384 AND n.nspname NOT IN ('pgshunt', 'information_schema')";

/// Who uses whom: views, rules, policies, function bodies that are parsed, triggers, foreign keys,
/// defaults and constraints. Each a kind and number of the user, of the used, and whether only by change.
const USES: &str = "
WITH u (user_kind, user_oid, used_kind, used_oid, by_change) AS (
  SELECT 1259::oid, r.ev_class, d.refclassid, d.refobjid, r.ev_type <> '1'
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
   WHERE d.classid = 2618 AND r.oid >= 16384 AND d.refobjid <> r.ev_class
  UNION ALL SELECT 1259::oid, p.polrelid, d.refclassid, d.refobjid, false
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid = d.objid
   WHERE d.classid = 3256 AND d.refobjid <> p.polrelid
  UNION ALL SELECT 1255::oid, d.objid, d.refclassid, d.refobjid, false
    FROM pg_catalog.pg_depend d WHERE d.classid = 1255 AND d.objid >= 16384
  UNION ALL SELECT 1259::oid, t.tgrelid, 1255::oid, t.tgfoid, true
    FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
  UNION ALL SELECT 1259::oid, c.conrelid, 1259::oid, c.confrelid, true
    FROM pg_catalog.pg_constraint c WHERE c.contype = 'f' AND c.confrelid NOT IN (
      -- A reference table is whole on every node.
      SELECT rc.oid FROM pgshunt.tables t JOIN pgshunt.colocation_groups g ON g.group_id = t.group_id
        JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
        JOIN pg_catalog.pg_class rc ON rc.relnamespace = n.oid AND rc.relname = t.table_name
       WHERE g.shard_count = 0)
  UNION ALL SELECT 1259::oid, a.adrelid, d.refclassid, d.refobjid, true
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid
   WHERE d.classid = 2604 AND d.refclassid = 1255
  UNION ALL SELECT 1259::oid, c.conrelid, d.refclassid, d.refobjid, true
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_constraint c ON c.oid = d.objid
   WHERE d.classid = 2606 AND d.refclassid = 1255 AND c.conrelid <> 0)
SELECT u.user_kind, u.user_oid, u.used_kind, u.used_oid, u.by_change,
       COALESCE(c.relname, p.proname)::text
  FROM u LEFT JOIN pg_catalog.pg_class c ON u.user_kind = 1259 AND c.oid = u.user_oid
  LEFT JOIN pg_catalog.pg_proc p ON u.user_kind = 1255 AND p.oid = u.user_oid
 WHERE u.used_kind IN (1259, 1255) AND COALESCE(c.relname, p.proname) IS NOT NULL";

/// Declared partitions, and the tables that their rows are in; of a catalog that knows any.
const PARTITIONS: &str = "
SELECT p.partition_name, c.oid FROM pgshunt.partitions p JOIN pgshunt.tables t ON t.table_id = p.table_id
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name";

/// Changes with whatever the rest reads, names of relations too. The catalogs' own rows are left out.
const PRINT: &str = "
SELECT pg_catalog.md5(pg_catalog.string_agg(x::text, ',')) FROM (
  SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_proc WHERE oid >= 16384
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_rewrite WHERE oid >= 16384
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_policy
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_operator WHERE oid >= 16384
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_cast WHERE oid >= 16384
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_constraint WHERE conrelid >= 16384
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(relname::text, oid::bigint)))
    FROM pg_catalog.pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f') AND relpersistence <> 't'
  UNION ALL SELECT (pg_catalog.count(*), pg_catalog.sum(xmin::text::bigint)) FROM pg_catalog.pg_attrdef) s (x)";

/// What leads to distributed tables now.
pub async fn read<C: GenericClient + Sync>(tx: &C) -> Result<Hidden, tokio_postgres::Error> {
    let object = |kind: u32, oid| match kind {
        1255 => Object::Function(oid),
        _ => Object::Relation(oid),
    };
    let tables = tx.query(TABLES, &[]).await?;
    let routines = tx.query(ROUTINES, &[]).await?;
    let uses = tx.query(USES, &[]).await?;
    let knows = "SELECT to_regclass('pgshunt.partitions') IS NOT NULL";
    let partitions = match tx.query_one(knows, &[]).await?.get(0) {
        true => tx.query(PARTITIONS, &[]).await?,
        false => Vec::new(),
    };
    // No relation stands behind such a name.
    let of_partition = |(n, r): (u32, &tokio_postgres::Row)| Use {
        user: Object::Relation(u32::MAX - n),
        used: Object::Relation(r.get(1)),
        by_change: false,
        name: r.get(0),
    };
    Ok(Hidden::find(&Uses {
        tables: tables.iter().map(|r| (r.get(0), r.get(1))).collect(),
        routines: routines
            .iter()
            .map(|r| Routine {
                oid: r.get(0),
                name: r.get(1),
                language: r.get(2),
                source: r.get(3),
            })
            .collect(),
        uses: uses
            .iter()
            .map(|r| Use {
                user: object(r.get(0), r.get(1)),
                used: object(r.get(2), r.get(3)),
                by_change: r.get(4),
                name: r.get(5),
            })
            .chain((0..).zip(&partitions).map(of_partition))
            .collect(),
    }))
}

/// Another one when [`read`] may find something else.
pub async fn print<C: GenericClient + Sync>(client: &C) -> Result<String, tokio_postgres::Error> {
    Ok(client.query_one(PRINT, &[]).await?.get::<_, Option<String>>(0).unwrap_or_default())
}
