//! Reads from a node what the preflight judges (`check`).

#![expect(unsafe_code, reason = "the C library tells the room in a directory")]

use std::time::Duration;

use super::check::{Identity, LeafFacts, NodeFacts, TableFacts};
use super::error::StepError;
use super::harmless;
use super::link::Link;
use super::plan::{Plan, PlanTable};

/// All facts of one node. `is_source`: whether the shard's leaves are expected there.
pub async fn read(link: &Link, plan: &Plan, is_source: bool) -> Result<NodeFacts, StepError> {
    let doing = "preflight";
    let settings = link
        .one(
            doing,
            "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
                    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
                    current_setting('max_replication_slots')::bigint,
                    (SELECT count(*) FROM pg_replication_slots),
                    current_setting('max_wal_senders')::bigint,
                    (SELECT count(*) FROM pg_stat_replication),
                    current_setting('max_logical_replication_workers')::bigint,
                    (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL),
                    current_setting('data_directory')",
            &[],
        )
        .await?;
    let mut tables = Vec::with_capacity(plan.tables.len());
    for t in &plan.tables {
        tables.push(table(link, plan, t, is_source).await?);
    }
    let stray_schema = !is_source
        && link
            .exists(doing, "SELECT FROM pg_namespace WHERE nspname = $1", &[&plan.schema()])
            .await?;
    Ok(NodeFacts {
        name: link.node.name.clone(),
        version: settings.get(0),
        wal_level: settings.get(1),
        superuser: settings.get(2),
        slots_max: settings.get(3),
        slots_used: settings.get(4),
        wal_senders_max: settings.get(5),
        wal_senders_used: settings.get(6),
        logical_workers_max: settings.get(7),
        logical_workers_used: settings.get(8),
        oldest_transaction: oldest_transaction(link).await?,
        free_bytes: free_bytes(&link.node.host, settings.get(9)),
        pending_detach: pending_detach(link, plan).await?,
        stray_schema,
        tables,
    })
}

/// The oldest open transaction of any session or PREPARE, with its age: slot creation and the
/// second phase of DETACH wait for it.
pub async fn oldest_transaction(link: &Link) -> Result<Option<(Duration, String)>, StepError> {
    let row = link
        .opt(
            "looking for the oldest transaction",
            "SELECT (extract(epoch FROM clock_timestamp() - since) * 1000)::bigint, who FROM (
                 SELECT xact_start AS since, format('pid %s of %s (%s)', pid, usename, state) AS who
                 FROM pg_stat_activity
                 WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()
                   AND backend_type = 'client backend' AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
                 UNION ALL
                 SELECT prepared, format('prepared transaction %L of %s', gid, owner)
                 FROM pg_prepared_xacts WHERE database = current_database()
             ) t ORDER BY since LIMIT 1",
            &[],
        )
        .await?;
    Ok(row.map(|r| (Duration::from_millis(r.get::<_, i64>(0).max(0) as u64), r.get(1))))
}

/// Parents of the group with a DETACH CONCURRENTLY that has not ended: there can be one each.
pub async fn pending_detach(link: &Link, plan: &Plan) -> Result<Vec<String>, StepError> {
    let parents: Vec<&str> = plan.tables.iter().map(|t| t.parent.as_str()).collect();
    let rows = link
        .query(
            "looking for an unfinished DETACH",
            "SELECT inhparent::regclass::text FROM pg_inherits
             WHERE inhdetachpending AND inhparent = ANY (SELECT to_regclass(unnest($1::text[])))",
            &[&parents],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

async fn table(
    link: &Link,
    plan: &Plan,
    t: &PlanTable,
    is_source: bool,
) -> Result<TableFacts, StepError> {
    let doing = "comparing tables";
    let there =
        link.exists(doing, "SELECT WHERE to_regclass($1) IS NOT NULL", &[&t.parent]).await?;
    if !there {
        return Ok(TableFacts {
            name: format!("{}.{}", t.schema, t.name),
            schema: None,
            parent_foreign_keys: vec![],
            doubts: vec![],
            leaf: None,
        });
    }
    let schema = link.query(doing, FINGERPRINT, &[&t.parent]).await?;
    let foreign = link
        .query(
            doing,
            "SELECT conname::text FROM pg_constraint c
             JOIN pg_class a ON a.oid = c.conrelid JOIN pg_class b ON b.oid = c.confrelid
             WHERE c.contype = 'f' AND to_regclass($1) IN (c.conrelid, c.confrelid)
               AND a.relkind = 'p' AND b.relkind = 'p'",
            &[&t.parent],
        )
        .await?;
    // The leaf before its parent: what both have is told of the leaf.
    let evaluated = [t.leaf.as_str(), t.parent.as_str()];
    Ok(TableFacts {
        name: format!("{}.{}", t.schema, t.name),
        schema: Some(schema.iter().map(|r| r.get(0)).collect()),
        parent_foreign_keys: foreign.iter().map(|r| r.get(0)).collect(),
        doubts: harmless::doubts(link, &evaluated[usize::from(!is_source)..]).await?,
        leaf: if is_source { leaf(link, plan, t).await? } else { None },
    })
}

/// A parent, line by line. Defaults are left out: a sequence counts in another stride on each node.
const FINGERPRINT: &str = "
    WITH t AS (SELECT to_regclass($1)::oid AS oid)
    SELECT format('column %s: %s %s%s%s%s%s', row_number() OVER (ORDER BY attnum), attname,
                  format_type(atttypid, atttypmod),
                  CASE WHEN attcollation NOT IN (0, 100)
                       THEN ' collate ' || (SELECT collname FROM pg_collation WHERE oid = attcollation) END,
                  CASE WHEN attnotnull THEN ' not null' END,
                  CASE WHEN attidentity <> '' THEN ' identity' END,
                  CASE WHEN attgenerated <> '' THEN (SELECT ' generated ' || pg_get_expr(adbin, adrelid)
                       FROM pg_attrdef d WHERE d.adrelid = attrelid AND d.adnum = attnum) END)
    FROM pg_attribute, t WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'partition by ' || pg_get_partkeydef(oid) FROM t
    UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index, t WHERE indrelid = t.oid
    UNION ALL SELECT format('constraint %s %s', conname, pg_get_constraintdef(c.oid))
              FROM pg_constraint c, t WHERE conrelid = t.oid AND contype <> 't'
    UNION ALL SELECT 'trigger ' || pg_get_triggerdef(g.oid) FROM pg_trigger g, t
              WHERE tgrelid = t.oid AND NOT tgisinternal
    UNION ALL SELECT format('grant %s of %s', g, pg_get_userbyid(relowner))
              FROM t JOIN pg_class c USING (oid), unnest(relacl) g
    UNION ALL SELECT format('grant %s on column %s', g, attname)
              FROM t JOIN pg_attribute a ON attrelid = oid, unnest(attacl) g
    UNION ALL SELECT 'owner ' || pg_get_userbyid(relowner) FROM t JOIN pg_class c USING (oid)
    UNION ALL SELECT 'publication ' || pubname FROM t JOIN pg_publication_rel ON prrelid = t.oid
              JOIN pg_publication p ON p.oid = prpubid
    UNION ALL SELECT 'row security' FROM t JOIN pg_class c USING (oid) WHERE relrowsecurity
    UNION ALL SELECT 'row security for its owner' FROM t JOIN pg_class c USING (oid)
              WHERE relforcerowsecurity
    UNION ALL SELECT format('policy %s: %s %s to %s using %s check %s', polname, polpermissive, polcmd,
                  array(SELECT pg_get_userbyid(r) FROM unnest(polroles) r ORDER BY 1),
                  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
              FROM pg_policy, t WHERE polrelid = t.oid";

/// What the source says about a leaf; `None`: it has none.
pub async fn leaf(link: &Link, plan: &Plan, t: &PlanTable) -> Result<Option<LeafFacts>, StepError> {
    let doing = "looking at a leaf";
    let row = link
        .opt(
            doing,
            "SELECT c.relpersistence = 'p', pg_table_size(c.oid) + pg_indexes_size(c.oid),
                    c.relreplident::text,
                    EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid AND NOT inhdetachpending
                            AND inhparent = to_regclass($2)),
                    EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisvalid AND indimmediate
                            AND CASE c.relreplident WHEN 'd' THEN indisprimary
                                                    WHEN 'i' THEN indisreplident END),
                    (SELECT i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                     WHERE x.indrelid = c.oid AND x.indisunique AND x.indimmediate AND x.indisvalid
                       AND x.indpred IS NULL AND x.indexprs IS NULL
                       AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                                       AND a.attnum = ANY (x.indkey) AND NOT a.attnotnull)
                     ORDER BY x.indnkeyatts, i.relname LIMIT 1)
             FROM pg_class c WHERE c.oid = to_regclass($1)",
            &[&t.leaf, &t.parent],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (by_index, unique): (bool, Option<String>) = (row.get(4), row.get(5));
    let identity = match (row.get::<_, &str>(2), by_index, unique) {
        ("f", _, _) | (_, true, _) => Identity::Given,
        (_, _, Some(index)) => Identity::Index(index),
        (_, _, None) => Identity::Full,
    };
    let prepared = link
        .query(
            doing,
            "SELECT DISTINCT format('%L of %s', x.gid, x.owner)
             FROM pg_prepared_xacts x
             JOIN pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = x.transaction
             JOIN pg_locks l ON l.virtualtransaction = own.virtualtransaction
             WHERE l.pid IS NULL AND own.pid IS NULL AND l.relation = to_regclass($1)",
            &[&t.leaf],
        )
        .await?;
    // A move that is resumed finds its own.
    let published = link
        .query(
            doing,
            "SELECT format('publication %s of %s', pubname, pg_get_userbyid(pubowner))
             FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
             WHERE prrelid = to_regclass($1) AND NOT starts_with(pubname::text, 'pgshunt_move_')
             ORDER BY pubname",
            &[&t.leaf],
        )
        .await?;
    Ok(Some(LeafFacts {
        name: format!("{}.{}", plan.schema(), t.name),
        attached: row.get(3),
        permanent: row.get(0),
        bytes: row.get::<_, i64>(1).max(0) as u64,
        identity,
        prepared: prepared.iter().map(|r| r.get(0)).collect(),
        published: published.iter().map(|r| r.get(0)).collect(),
    }))
}

/// Free bytes at the data directory of a node on this very machine; of others nothing is known
/// without an agent.
fn free_bytes(host: &str, directory: &str) -> Option<u64> {
    let local = host.starts_with('/')
        || host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !local || !std::path::Path::new(directory).is_absolute() {
        return None;
    }
    let path = std::ffi::CString::new(directory).ok()?;
    // SAFETY: statvfs is a plain struct of integers, for which zero is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    let done = unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) };
    // A loopback address may be a tunnel or a container's: the directory is then not here.
    (done == 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}
