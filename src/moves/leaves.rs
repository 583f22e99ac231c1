//! The shard's schema and leaves on the target: built from the target's own parent, not attached.
//!
//! Indexes, constraints and grants are copied from the source's leaf word for word: leaf and schema
//! bear the same names on every node, so what the source prints can be executed on the target.
//! That the result fits the target's parent follows from the preflight, which found both parents
//! equal, and is proven by the rehearsal before the cutover.

use std::time::{Duration, Instant};

use super::cleanup::Kind;
use super::ctx::Ctx;
use super::error::StepError;
use super::link::Link;
use super::plan::{Plan, PlanTable};
use super::sql::{ident, literal};
use crate::catalog::ddl::Access;
use crate::hash::KeyType;

/// The CHECK that spares ATTACH its scan: equal to the leaf's partition constraint. It names the
/// local parent's OID, so each node has its own.
pub const CHECK: &str = "pgshunt_move_check";

pub async fn create(ctx: &Ctx) -> Result<(), StepError> {
    let plan = &ctx.plan;
    ctx.promise(plan.target.id, Kind::Schema.name(), &plan.schema()).await?;
    ctx.promise(plan.source.id, Kind::Marker.name(), &plan.marker()).await?;
    ctx.promise(plan.target.id, Kind::Marker.name(), &plan.marker()).await?;
    for link in [&ctx.source, &ctx.target] {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (side text, seq bigint, PRIMARY KEY (side, seq))",
            plan.marker()
        );
        link.batch("creating the marker table", &sql).await?;
    }
    let schema = plan.quoted_schema();
    let grants = schema_grants(&ctx.source, plan).await?;
    let sql = format!("CREATE SCHEMA IF NOT EXISTS {schema}; {}", grants.join("; "));
    ctx.target.transaction("creating the shard's schema", &sql).await?;
    for t in &plan.tables {
        ctx.promise(plan.target.id, Kind::Check.name(), &t.leaf).await?;
        create_leaf(ctx, t).await?;
    }
    Ok(())
}

/// What the schema's privileges are on the source, as GRANTs. Its owner is the service role.
async fn schema_grants(source: &Link, plan: &Plan) -> Result<Vec<String>, StepError> {
    let rows = source
        .query(
            "reading the schema's grants",
            "SELECT format('GRANT %s ON SCHEMA %I TO %s%s', privilege_type, nspname,
                           CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                           CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
             FROM pg_namespace, aclexplode(nspacl) WHERE nspname = $1 AND grantee <> nspowner",
            &[&plan.schema()],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

async fn create_leaf(ctx: &Ctx, t: &PlanTable) -> Result<(), StepError> {
    let doing = "creating a leaf";
    let there =
        ctx.target.exists(doing, "SELECT WHERE to_regclass($1) IS NOT NULL", &[&t.leaf]).await?;
    if there {
        return Ok(());
    }
    let parent = ctx.target.one(doing, "SELECT $1::text::regclass::oid", &[&t.parent]).await?;
    let oid: u32 = parent.get(0);
    let mut sql = format!(
        "CREATE TABLE {leaf} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS \
         INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING STATISTICS) \
         WITH (autovacuum_enabled = false); {}",
        add_check(&ctx.plan, t, oid, ""),
        leaf = t.leaf,
        parent = t.parent,
    );
    for line in leaf_words(&ctx.source, t).await? {
        sql += "; ";
        sql += &line;
    }
    for line in key_words(&ctx.source, t).await? {
        sql += "; ";
        sql += &line;
    }
    let access = ctx.source.told(doing, Access::of(&ctx.source.client, &t.leaf).await)?;
    for line in access.map(|a| a.statements(&t.leaf, None)).unwrap_or_default() {
        sql += "; ";
        sql += &line;
    }
    ctx.target.transaction(doing, &sql).await
}

/// `ALTER TABLE ... ADD CONSTRAINT` of the [`CHECK`] on a node where the parent has this OID.
pub fn add_check(plan: &Plan, t: &PlanTable, parent_oid: u32, options: &str) -> String {
    let key = t.key_columns.iter().zip(&plan.key_types).map(|(c, &ty)| key_word(&ident(c), ty));
    let key = key.collect::<Vec<_>>().join(", ");
    format!(
        "ALTER TABLE {} ADD CONSTRAINT {CHECK} CHECK \
         (satisfies_hash_partition('{parent_oid}'::oid, {}, {}, {key})) {options}",
        t.leaf, plan.modulus, plan.remainder
    )
}

/// A key column as the [`CHECK`] names it.
///
/// PostgreSQL skips the scan only if the CHECK's expression equals the partition constraint, node by
/// node. That one calls `satisfies_hash_partition` without an input collation, while a call in SQL gets
/// the one of its text arguments; and SQL has no word for "none". But where two columns with different
/// collations meet in a CASE, the result has none, and the call neither. Both branches are folded away
/// when the expressions are compared and when a row is checked, and the column alone remains.
fn key_word(column: &str, ty: KeyType) -> String {
    let none = "(NULL::pgshunt.contradiction)";
    let other = format!("CASE WHEN true THEN {none}.c ELSE {none}.p END");
    match ty {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 | KeyType::Uuid => column.to_owned(),
        KeyType::Text => format!("CASE WHEN true THEN {column} ELSE {other} END"),
        KeyType::Varchar => format!("CASE WHEN true THEN {column} ELSE ({other})::varchar END"),
    }
}

/// Storage parameters of the source's leaf, as statements.
async fn leaf_words(source: &Link, t: &PlanTable) -> Result<Vec<String>, StepError> {
    let rows = source
        .query(
            "reading a leaf",
            "SELECT format('ALTER TABLE %s SET (%I = %L)', $1::text, split_part(o, '=', 1),
                           substr(o, strpos(o, '=') + 1))
             FROM pg_class c, unnest(c.reloptions) o
             WHERE c.oid = $1::text::regclass AND o NOT LIKE 'autovacuum_enabled=%'",
            &[&t.leaf],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// What apply needs to find a row: the primary key and the replica identity, as the source has it.
async fn key_words(source: &Link, t: &PlanTable) -> Result<Vec<String>, StepError> {
    let rows = source
        .query(
            "reading a leaf's keys",
            "SELECT CASE WHEN con.oid IS NULL THEN pg_get_indexdef(x.indexrelid)
                         ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', $1::text, con.conname, pg_get_constraintdef(con.oid)) END
             FROM pg_index x LEFT JOIN pg_constraint con
                  ON con.conindid = x.indexrelid AND con.conrelid = x.indrelid
             WHERE x.indrelid = $1::text::regclass AND (x.indisprimary OR x.indisreplident)
             UNION ALL
             SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', $1::text, CASE c.relreplident
                        WHEN 'f' THEN 'FULL'
                        ELSE (SELECT format('USING INDEX %I', i.relname) FROM pg_index x
                              JOIN pg_class i ON i.oid = x.indexrelid
                              WHERE x.indrelid = c.oid AND x.indisreplident) END)
             FROM pg_class c WHERE c.oid = $1::text::regclass AND c.relreplident IN ('f', 'i')",
            &[&t.leaf],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// The rest of the source's indexes, after the copy; then statistics, so that the first plans on
/// the target are good ones.
pub async fn build_indexes(ctx: &Ctx) -> Result<(), StepError> {
    let doing = "building indexes";
    for t in &ctx.plan.tables {
        let wanted = ctx
            .source
            .query(
                doing,
                "SELECT i.relname::text, CASE WHEN con.oid IS NULL THEN pg_get_indexdef(x.indexrelid)
                         ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', $1::text, con.conname, pg_get_constraintdef(con.oid)) END
                 FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                 LEFT JOIN pg_constraint con ON con.conindid = x.indexrelid AND con.conrelid = x.indrelid
                 WHERE x.indrelid = $1::text::regclass AND x.indisvalid ORDER BY i.relname",
                &[&t.leaf],
            )
            .await?;
        for row in &wanted {
            let (name, words): (String, String) = (row.get(0), row.get(1));
            let there = ctx
                .target
                .exists(
                    doing,
                    "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = $1 AND c.relname = $2",
                    &[&ctx.plan.schema(), &name],
                )
                .await?;
            if !there {
                ctx.target.batch(doing, &words).await?;
            }
        }
        ctx.target.batch("collecting statistics", &format!("ANALYZE {}", t.leaf)).await?;
    }
    Ok(())
}

/// Foreign keys: the leaf-to-leaf ones, and those that ATTACH would otherwise make and validate
/// while traffic waits. Only now do all leaves show the source at one point.
pub async fn add_foreign_keys(ctx: &Ctx) -> Result<(), StepError> {
    let doing = "adding foreign keys";
    for t in &ctx.plan.tables {
        let wanted = ctx
            .source
            .query(
                doing,
                "SELECT conname::text, regexp_replace(pg_get_constraintdef(oid), ' NOT VALID$', ''), convalidated
                 FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype = 'f' ORDER BY conname",
                &[&t.leaf],
            )
            .await?;
        for row in &wanted {
            let (name, words, valid): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            let there = ctx
                .target
                .opt(
                    doing,
                    "SELECT convalidated FROM pg_constraint
                     WHERE conrelid = $1::text::regclass AND conname = $2",
                    &[&t.leaf, &name],
                )
                .await?;
            let quoted = ident(&name);
            if there.is_none() {
                let sql =
                    format!("ALTER TABLE {} ADD CONSTRAINT {quoted} {words} NOT VALID", t.leaf);
                ctx.target.batch(doing, &sql).await?;
            }
            if valid && !there.is_some_and(|r| r.get(0)) {
                let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {quoted}", t.leaf);
                ctx.target.batch(doing, &sql).await?;
            }
        }
    }
    Ok(())
}

/// Gives the leaves on `link` their [`CHECK`], so that they can be attached there without a scan.
/// They must not serve at present.
pub async fn keep_attachable(ctx: &Ctx, link: &Link) -> Result<(), StepError> {
    let doing = "keeping the retired leaves attachable";
    for t in &ctx.plan.tables {
        ctx.promise(link.node.id, Kind::Check.name(), &t.leaf).await?;
        let row = link
            .one(
                doing,
                "SELECT $2::text::regclass::oid,
                        (SELECT convalidated FROM pg_constraint
                         WHERE conrelid = $1::text::regclass AND conname = $3::text)",
                &[&t.leaf, &t.parent, &CHECK],
            )
            .await?;
        let (parent, valid): (u32, Option<bool>) = (row.get(0), row.get(1));
        if valid.is_none() {
            link.gently(doing, &add_check(&ctx.plan, t, parent, "NOT VALID")).await?;
        }
        if valid != Some(true) {
            let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {CHECK}", t.leaf);
            link.batch(doing, &sql).await?;
        }
    }
    Ok(())
}

/// The leaves that serve now are vacuumed like any other.
pub async fn allow_autovacuum(ctx: &Ctx) -> Result<(), StepError> {
    for t in &ctx.plan.tables {
        let sql = format!("ALTER TABLE {} RESET (autovacuum_enabled)", t.leaf);
        ctx.target.gently("allowing autovacuum", &sql).await?;
    }
    Ok(())
}

/// The leaves' partition bound.
pub fn attach(plan: &Plan, t: &PlanTable) -> String {
    format!(
        "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES WITH (MODULUS {}, REMAINDER {})",
        t.parent, t.leaf, plan.modulus, plan.remainder
    )
}

/// Attaches the leaves on the target, after `lifting` an older fence there, and rolls back: shows
/// before the held phase that it works, how long it takes, and fills the session's caches.
pub async fn rehearse_attach(ctx: &Ctx, lifting: &str) -> Result<Duration, StepError> {
    let all: Vec<_> = ctx.plan.tables.iter().map(|t| attach(&ctx.plan, t)).collect();
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '100ms'; {lifting} {}", all.join("; "));
    let since = Instant::now();
    let done = ctx.target.batch("rehearsing ATTACH", &sql).await;
    let took = since.elapsed();
    if !ctx.target.is_closed() {
        ctx.target.batch("rehearsing ATTACH", "ROLLBACK").await?;
    }
    done.map(|()| took)
}

/// Sets the replica identity of leaves that have no primary key, before they are published:
/// published without one, UPDATE and DELETE would fail on the source.
pub async fn set_identity(ctx: &Ctx, leaf: &str, index: Option<&str>) -> Result<(), StepError> {
    ctx.promise(ctx.plan.source.id, Kind::Identity.name(), leaf).await?;
    ctx.promise(ctx.plan.target.id, Kind::Identity.name(), leaf).await?;
    let how = index.map_or("FULL".into(), |i| format!("USING INDEX {}", ident(i)));
    let sql = format!("ALTER TABLE {leaf} REPLICA IDENTITY {how}");
    ctx.source.gently("setting the replica identity", &sql).await
}

/// What the leaves weigh on a node, without indexes.
pub async fn bytes(link: &Link, plan: &Plan) -> Result<u64, StepError> {
    let sql = format!(
        "SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = {} AND c.relkind = 'r' AND c.relname = ANY ($1)",
        literal(&plan.schema())
    );
    let row = link.one("measuring the shard", &sql, &[&plan.names()]).await?;
    Ok(row.get::<_, i64>(0).max(0) as u64)
}
