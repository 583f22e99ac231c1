//! The shard's schema and leaves on the target: built from the target's own parent, not attached.
//!
//! Indexes, constraints and grants are copied from the source's leaf word for word: leaf and schema
//! bear the same names on every node, so what the source prints can be executed on the target.
//! That the result fits the target's parent follows from the preflight, which found both parents
//! equal, and is proven by the rehearsal before the cutover.
//!
//! Until its leaves are attached nobody may use the schema, so that nobody can name them: a leaf's
//! owner could otherwise give it a CHECK or a trigger that the apply worker runs. From PostgreSQL 16 on
//! the worker is the owner, who then has to be able to name its leaf ([`let_owners_apply`]); that nothing
//! was added to it is proven again before it is attached. Where row security is forced upon the owner the
//! worker is the service role on every version, and the owner stays outside.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use super::cleanup::Kind;
use super::ctx::Ctx;
use super::error::StepError;
use super::harmless::{APPLIES_AS_OWNER, Proof};
use super::link::Link;
use super::machine;
use super::plan::{Plan, PlanTable};
use super::sql::{ident, literal};
use crate::catalog::ddl::Access;
use crate::catalog::reserved::must_be_ours;
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
    let sql = format!(
        "CREATE SCHEMA IF NOT EXISTS {}; {}",
        plan.quoted_schema(),
        must_be_ours(&[plan.schema()])
    );
    ctx.target.transaction("creating the shard's schema", &sql).await?;
    for t in &plan.tables {
        ctx.promise(plan.target.id, Kind::Check.name(), &t.leaf).await?;
        create_leaf(ctx, t).await?;
        same_columns(ctx, t).await?;
    }
    // The parent may have been changed since the preflight.
    Proof::of(&ctx.target, &plan.leaf_names()).await.map(drop)
}

/// Gives the leaves' owners USAGE on the target's schema when the forward subscription applies rows as
/// them. Only then: as whom it does is decided while nobody but the service role can name a leaf, and an
/// owner who could would have triggers of its own run as the service role.
pub async fn let_owners_apply(ctx: &Ctx) -> Result<(), StepError> {
    let doing = "letting the owners apply rows";
    // Before PostgreSQL 16 there is no such column, and it is the subscription's owner.
    let as_owner = "SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid
         WHERE subname = $1 AND datname = current_database()
           AND to_jsonb(s) ->> 'subrunasowner' = 'false'";
    if !ctx.target.exists(doing, as_owner, &[&ctx.plan.forward()]).await? {
        return Ok(());
    }
    let grants = worker_grants(&ctx.target, &ctx.plan, "GRANT", "TO").await?;
    ctx.target.batch(doing, &grants.join("; ")).await
}

/// USAGE on the schema for the leaves' owners while they apply rows, or the end of it.
async fn worker_grants(
    target: &Link,
    plan: &Plan,
    verb: &str,
    to: &str,
) -> Result<Vec<String>, StepError> {
    let rows = target
        .query(
            "looking for the leaves' owners",
            "SELECT DISTINCT quote_ident(rolname) FROM pg_class c JOIN pg_roles r ON r.oid = relowner
             WHERE c.oid = ANY (SELECT to_regclass(unnest($1::text[]))) AND NOT rolsuper
               AND current_setting('server_version_num')::int >= $2",
            &[&plan.leaf_names(), &APPLIES_AS_OWNER],
        )
        .await?;
    let schema = plan.quoted_schema();
    let words = |r: &Row| format!("{verb} USAGE ON SCHEMA {schema} {to} {}", r.get::<_, String>(0));
    Ok(rows.iter().map(words).collect())
}

/// The new leaf has the source's columns, so that none is filled by a default while rows are copied.
async fn same_columns(ctx: &Ctx, t: &PlanTable) -> Result<(), StepError> {
    let mut sides = Vec::new();
    for link in [&ctx.source, &ctx.target] {
        let row = link
            .one(
                "comparing columns",
                "SELECT array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attgenerated)
                                  ORDER BY attname)
                 FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
                &[&t.leaf],
            )
            .await?;
        sides.push(row.get::<_, Option<Vec<String>>>(0));
    }
    if sides[0] == sides[1] {
        return Ok(());
    }
    Err(StepError::Refused(format!("the columns of {} differ between the nodes", t.leaf)))
}

/// What the schema's privileges are on the source, as GRANTs. Its owner is the service role.
pub async fn schema_grants(source: &Link, plan: &Plan) -> Result<Vec<String>, StepError> {
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
    let proof = Proof::of(&ctx.target, &[&t.parent]).await?;
    let mut sql = format!(
        "LOCK TABLE ONLY {parent} IN SHARE UPDATE EXCLUSIVE MODE; {guard}; \
         CREATE TABLE {leaf} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS \
         INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING STATISTICS) \
         WITH (autovacuum_enabled = false); {}",
        add_check(&ctx.plan, t, oid, ""),
        guard = proof.guard(),
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
    for line in access_words(&ctx.source, t).await? {
        sql += "; ";
        sql += &line;
    }
    ctx.target.transaction(doing, &sql).await
}

/// Owner, grants and policies of the source's leaf, as statements. A policy is altered in place, so the
/// words and the proof that they are harmless are read in one snapshot.
async fn access_words(source: &Link, t: &PlanTable) -> Result<Vec<String>, StepError> {
    let doing = "reading a leaf's grants";
    source.batch(doing, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    let access = source.told(doing, Access::of(&source.client, &t.leaf).await);
    let proof = Proof::of(source, &[&t.leaf]).await;
    if !source.is_closed() {
        source.batch(doing, "ROLLBACK").await?;
    }
    proof?;
    Ok(access?.map(|a| a.statements(&t.leaf, None)).unwrap_or_default())
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
    let or_other = |cast: &str| format!("CASE WHEN true THEN {column} ELSE ({other}){cast} END");
    match ty {
        KeyType::Text => or_other(""),
        KeyType::Varchar => or_other("::varchar"),
        KeyType::Bpchar => or_other("::bpchar"),
        KeyType::Name => or_other("::name"),
        // Types without a collation.
        KeyType::Int2
        | KeyType::Int4
        | KeyType::Int8
        | KeyType::Uuid
        | KeyType::Char
        | KeyType::Bytea
        | KeyType::Bool
        | KeyType::Oid
        | KeyType::Numeric
        | KeyType::Date
        | KeyType::Timestamp
        | KeyType::Timestamptz => column.to_owned(),
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
        let proof = Proof::of(&ctx.source, &[&t.leaf]).await?;
        let wanted = ctx
            .source
            .query(
                doing,
                "SELECT i.relname::text, CASE WHEN con.oid IS NULL THEN pg_get_indexdef(x.indexrelid)
                         ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', $1::text, con.conname, pg_get_constraintdef(con.oid)) END,
                        x.indexrelid
                 FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                 LEFT JOIN pg_constraint con ON con.conindid = x.indexrelid AND con.conrelid = x.indrelid
                 WHERE x.indrelid = $1::text::regclass AND x.indisvalid ORDER BY i.relname",
                &[&t.leaf],
            )
            .await?;
        for row in &wanted {
            let (name, words): (String, String) = (row.get(0), row.get(1));
            proof.covers(row.get(2), &name)?;
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
        let proof = Proof::of(&ctx.source, &[&t.leaf]).await?;
        let wanted = ctx
            .source
            .query(
                doing,
                "SELECT conname::text, regexp_replace(pg_get_constraintdef(oid), ' NOT VALID$', ''), convalidated, oid
                 FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype = 'f' ORDER BY conname",
                &[&t.leaf],
            )
            .await?;
        for row in &wanted {
            let (name, words, valid): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            proof.covers(row.get(3), &name)?;
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
                validate(ctx, t, &quoted).await?;
            }
        }
    }
    Ok(())
}

/// VALIDATE joins two leaves, or a leaf and a reference table, with the service role's rights, and planning that
/// evaluates what belongs to them.
async fn validate(ctx: &Ctx, t: &PlanTable, constraint: &str) -> Result<(), StepError> {
    let referred = ctx
        .target
        .query(
            "adding foreign keys",
            "SELECT DISTINCT format('%I.%I', n.nspname, c.relname) FROM pg_constraint k
             JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE k.conrelid = $1::text::regclass AND k.contype = 'f' AND n.nspname <> $2",
            &[&t.leaf, &ctx.plan.schema()],
        )
        .await?;
    let referred: Vec<String> = referred.iter().map(|r| r.get(0)).collect();
    let mut all = ctx.plan.leaf_names();
    all.extend(referred.iter().map(String::as_str));
    let proof = Proof::of(&ctx.target, &all).await?;
    let others: String = referred.iter().map(|r| format!(", ONLY {r}")).collect();
    let sql = format!(
        "LOCK TABLE {}{others} IN SHARE UPDATE EXCLUSIVE MODE; {}; ALTER TABLE {} VALIDATE CONSTRAINT {constraint}",
        ctx.plan.leaves(),
        proof.guard(),
        t.leaf
    );
    ctx.target.transaction("adding foreign keys", &sql).await
}

/// Gives the leaves on `link` their [`CHECK`], so that they can be attached there without a scan.
/// They must not serve at present, and the fence must keep others from naming them. A constraint of the
/// CHECK's name that somebody else made before costs a scan, and nothing more: it is harmless.
pub async fn keep_attachable(ctx: &Ctx, link: &Link) -> Result<(), StepError> {
    let doing = "keeping the retired leaves attachable";
    Proof::of(link, &ctx.plan.leaf_names()).await?;
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

/// The leaf's partition bound.
fn attach(plan: &Plan, t: &PlanTable) -> String {
    format!(
        "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES WITH (MODULUS {}, REMAINDER {})",
        t.parent, t.leaf, plan.modulus, plan.remainder
    )
}

/// The statements that open the leaves on the target: proof and lock in front of whatever PostgreSQL
/// evaluates, whatever lifts an older fence there, ATTACH, and who may use the schema.
pub async fn attach_all(ctx: &Ctx, lifting: &str) -> Result<String, StepError> {
    let plan = &ctx.plan;
    let names = plan.tables.iter().flat_map(|t| [t.parent.as_str(), t.leaf.as_str()]);
    let proof = Proof::of(&ctx.target, &names.collect::<Vec<_>>()).await?;
    let both: Vec<_> =
        plan.tables.iter().map(|t| format!("ONLY {}, ONLY {}", t.parent, t.leaf)).collect();
    let mut all = vec![
        format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", both.join(", ")),
        proof.guard(),
    ];
    all.extend(plan.tables.iter().map(|t| attach(plan, t)));
    // Lifting the fence of a shard that comes back gives them.
    if plan.kind == machine::Kind::Forward {
        all.extend(worker_grants(&ctx.target, plan, "REVOKE", "FROM").await?);
        all.extend(schema_grants(&ctx.source, plan).await?);
    }
    Ok(format!("{lifting}{}", all.join("; ")))
}

/// Attaches the leaves on the target, after `lifting` an older fence there, and rolls back: shows
/// before the held phase that it works, how long it takes, and fills the session's caches.
pub async fn rehearse_attach(ctx: &Ctx, lifting: &str) -> Result<Duration, StepError> {
    let all = attach_all(ctx, lifting).await?;
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '100ms'; {all}");
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
