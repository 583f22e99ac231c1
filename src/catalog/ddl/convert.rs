//! A local table with its rows becomes a distributed one, and the other way round.
//!
//! ```text
//!   home    the table is locked, and moved aside with its indexes ─► one of its name and of the other kind
//!   all     parents and leaves (`create`) ─► the rows, as the table's owner (`reference::carry`)
//!   home    grants, policies, comments ─► all ─► what was moved aside is dropped
//! ```
//!
//! One transaction of all nodes. PostgreSQL keeps the table locked until its end; clients of pgshunt are held before,
//! at the gates (`moves::making_way`), so that nobody waits for the lock with a statement that was planned for the
//! table as it was. Nothing of the owner's is evaluated by the service role for rows: constraints and expressions are
//! computed while the owner inserts.

use futures_util::future::try_join_all;
use postgres_protocol::escape::escape_identifier as ident;

use super::acting::Who;
use super::change::{Found, find_one, leave_catalog, lock, look_up, no_moves, owned};
use super::create::{
    Placed, find_group, insert, leaves, make_group, parent as make_parent, placed, shard_count,
    slotted, stands_alone, stride,
};
use super::naming::Name;
use super::reference::{carry, owner_of};
use super::roles::copy_all;
use super::trust::Needs;
use super::{Access, Client, DdlError, Everywhere, Peer, Sequence, Shape, access, no_move};
use crate::catalog::raise_epoch;
use crate::router::REFERENCE_MARK;
use crate::topology::NewTable;

/// Where the table is until its rows have left it.
const ASIDE: &str = "pgshunt_aside";

/// What stays of a table whatever kind it is of.
struct Kept {
    /// The table as it was.
    oid: u32,
    owner: String,
    access: Access,
    /// Of the sequences that come with identity columns, which are made anew.
    identities: Vec<Access>,
}

/// `SELECT create_distributed_table('t', 'key')`
pub(super) async fn distribute(
    mut all: Everywhere,
    by: Client<'_>,
    name: &Name,
    key: &[String],
) -> Result<Everywhere, DdlError> {
    let (shape, kept) = local(&all, by, name, key).await?;
    let warning =
        stands_alone(&all.home.client, &by.who.role, (&shape.schema, &shape.name)).await?;
    let last = last_values(&all.home, &shape.sequences).await?;
    let parent = make_anew(&all.home, &shape, &shape.sequences, &kept).await?;
    let parent = Shape::read(&*all.home.client, parent).await?;
    let shards = spread(&all, by.who, &parent, &kept).await?;
    let stride = stride(&all.home.client).await?;
    for peer in all.peers() {
        for s in slotted(&shape.sequences, peer.node.id, stride)? {
            let of = last.iter().find(|(name, _)| *name == s.quoted());
            peer.run(&s.goes_on_behind(
                of.map_or(s.start.saturating_sub(s.increment), |(_, last)| *last),
            )?)
            .await?;
        }
    }
    let aside = format!("ONLY {}", aside(&shape));
    let mut carried = 0;
    for peer in all.peers() {
        let here = of_node(&parent, &shards, peer);
        if here.is_empty() {
            continue;
        }
        let source = format!("{aside} WHERE {here}");
        carried += match peer.node.is_home {
            true => within_home(&all.home, &parent, &source, &kept.owner).await?,
            false => carry((&all.home, &source), (peer, &kept.owner), &parent).await?,
        };
    }
    none_is_lost(&all.home, &aside, carried).await?;
    for peer in all.peers() {
        // What is deferred would be in the way of what comes now.
        peer.run("SET CONSTRAINTS ALL IMMEDIATE").await?;
    }
    end(&all, &parent, &kept).await?;
    access::follow(&all, &parent.schema, &parent.name).await?;
    all.warnings.extend(warning);
    Ok(all)
}

/// `SELECT undistribute_table('t')`
pub(super) async fn undistribute(
    all: Everywhere,
    by: Client<'_>,
    name: &Name,
) -> Result<Everywhere, DdlError> {
    let Some(found) = find_one(&all, by.who, name).await? else {
        let what = format!("\"{}\" is not a distributed table", name.name);
        return Err(DdlError::new("42809", what));
    };
    owned(&all, by, found.oid, &found.table.name).await?;
    no_moves(&all, std::slice::from_ref(&found)).await?;
    let quoted = format!("{}.{}", ident(&found.table.schema), ident(&found.table.name));
    let kind = if found.table.is_reference() { "r" } else { "p" };
    lock(&all.home, &quoted, kind, Some(found.oid)).await?;
    for peer in &all.others {
        lock(peer, &quoted, kind, None).await?;
    }
    if found.table.is_reference() {
        let unmarks = format!("ALTER TABLE {quoted} DROP CONSTRAINT {REFERENCE_MARK}");
        all.home.run(&unmarks).await?;
    } else {
        gather(&all, &found, &quoted).await?;
    }
    let drop = format!("DROP TABLE {quoted}");
    try_join_all(all.others.iter().map(|p| p.run(&drop))).await?;
    leave_catalog(&all, std::slice::from_ref(&found)).await?;
    Ok(all)
}

/// Makes a table of the home node's of all nodes' rows.
async fn gather(all: &Everywhere, found: &Found, quoted: &str) -> Result<(), DdlError> {
    let home = &all.home;
    let parent = Shape::read(&*home.client, found.oid).await?;
    suits(home, found.oid).await?;
    let stride = stride(&home.client).await?;
    let out = |s: &Sequence| s.out_of_slot(home.node.id.0, stride);
    let declared: Vec<Sequence> = parent.sequences.iter().map(out).collect();
    let mut last = Vec::new();
    for peer in all.peers() {
        last.extend(last_values(peer, &parent.sequences).await?);
    }
    let kept = Kept::read(home, &parent).await?;
    let shape = parent.without_key();
    make_anew(home, &shape, &declared, &kept).await?;
    for s in &declared {
        let of = last.iter().filter(|(name, _)| *name == s.quoted()).map(|(_, last)| *last);
        let furthest = |a: i64, b: i64| if s.increment > 0 { a.max(b) } else { a.min(b) };
        let last = of.reduce(furthest);
        home.run(&s.goes_on_behind(last.unwrap_or(s.start.saturating_sub(s.increment)))?).await?;
    }
    let aside = aside(&shape);
    let mut carried = within_home(home, &shape, &aside, &kept.owner).await?;
    none_is_lost(home, &aside, carried).await?;
    for peer in &all.others {
        carried = carry((peer, quoted), (home, &kept.owner), &shape).await?;
        none_is_lost(peer, quoted, carried).await?;
    }
    home.run("SET CONSTRAINTS ALL IMMEDIATE").await?;
    end(all, &shape, &kept).await
}

/// The local table that is to be distributed, locked, and what the parent will be.
async fn local(
    all: &Everywhere,
    by: Client<'_>,
    name: &Name,
    key: &[String],
) -> Result<(Shape, Kept), DdlError> {
    let relation = look_up(all, by.who, name).await?.ok_or_else(|| {
        DdlError::new("42P01", format!("relation {} does not exist", name.quoted()))
    })?;
    if let Some(table) = all.routes.table_by_name(&relation.schema, &relation.name) {
        let what = if table.is_reference() { "a reference table" } else { "distributed" };
        return Err(DdlError::new("42710", format!("table \"{}\" is {what} already", table.name)));
    }
    owned(all, by, relation.oid, &relation.name).await?;
    let home = &all.home;
    let quoted = format!("{}.{}", ident(&relation.schema), ident(&relation.name));
    lock(home, &quoted, "r", Some(relation.oid)).await?;
    suits(home, relation.oid).await?;
    let shape = Shape::to_distribute(&*home.client, relation.oid, key).await?;
    if let Some(column) = key.iter().find(|c| !shape.column_names.contains(c)) {
        let what = format!("column \"{column}\" of relation \"{}\" does not exist", relation.name);
        return Err(DdlError::new("42703", what));
    }
    let kept = Kept::read(home, &shape).await?;
    // What counts is who has written the table, not who asks.
    let mut judged: Who = by.who.clone();
    judged.superuser = owner_of(home, relation.oid).await?.1;
    Needs::of(&home.client, &judged, relation.oid).await?.check_elsewhere(all).await?;
    Ok((shape, kept))
}

/// Refuses what the table would not have any more when it is of the other kind.
async fn suits(home: &Peer, table: u32) -> Result<(), DdlError> {
    let row = home.client.query_one(LOSES, &[&table]).await?;
    let Some(what) = row.try_get::<_, Option<String>>(0)? else { return Ok(()) };
    Err(DdlError::unsupported(format!(
        "a table with {what} cannot be distributed, nor undistributed"
    ))
    .hint("Drop it first, and make it again then where it can be."))
}

impl Kept {
    async fn read(home: &Peer, shape: &Shape) -> Result<Self, DdlError> {
        let missing = || DdlError::new("XX000", format!("{} is not there", shape.quoted()));
        let access = Access::of(&home.client, &shape.quoted()).await?.ok_or_else(missing)?;
        let mut identities = Vec::new();
        for s in shape.sequences.iter().filter(|s| s.identity) {
            identities.extend(Access::of(&home.client, &s.quoted()).await?);
        }
        let owner = owner_of(home, shape.oid).await?.0;
        Ok(Self { oid: shape.oid, owner, access, identities })
    }
}

fn aside(shape: &Shape) -> String {
    format!("{ASIDE}.{}", ident(&shape.name))
}

/// Moves the table aside, and makes one of its name and shape. Gives the new one's number.
async fn make_anew(
    home: &Peer,
    shape: &Shape,
    declared: &[Sequence],
    kept: &Kept,
) -> Result<u32, DdlError> {
    let (quoted, aside, owner) = (shape.quoted(), aside(shape), ident(&kept.owner));
    // Those of serial columns stay where they are.
    let (identities, serials): (Vec<_>, Vec<_>) =
        declared.iter().cloned().partition(|s| s.identity);
    let mut sql =
        vec![format!("CREATE SCHEMA {ASIDE}"), format!("GRANT USAGE ON SCHEMA {ASIDE} TO {owner}")];
    sql.extend(serials.iter().map(|s| format!("ALTER SEQUENCE {} OWNED BY NONE", s.quoted())));
    sql.push(format!("ALTER TABLE {quoted} SET SCHEMA {ASIDE}"));
    sql.push(format!(
        "ALTER TABLE {aside} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
    ));
    sql.extend(shape.create_statements(&identities));
    sql.push(format!("ALTER TABLE {quoted} OWNER TO {owner}"));
    sql.extend(
        serials.iter().map(|s| {
            format!("ALTER SEQUENCE {} OWNED BY {quoted}.{}", s.quoted(), ident(&s.column))
        }),
    );
    home.client.batch_execute(&sql.join("; ")).await?;
    let oid = "SELECT to_regclass($1)::oid";
    Ok(home.client.query_one(oid, &[&quoted]).await?.try_get(0)?)
}

/// Gives the parent its entry in the catalog, and its shards on all nodes.
async fn spread(
    all: &Everywhere,
    who: &Who,
    parent: &Shape,
    kept: &Kept,
) -> Result<Vec<Placed>, DdlError> {
    let home = &all.home;
    let key_types = parent.key_types()?;
    let epoch = raise_epoch(&*home.client).await?;
    let count = shard_count(&home.client, who.shard_count.as_deref()).await?;
    let group = match find_group(&home.client, &key_types, count, &parent.name).await? {
        Some(group) => {
            no_move(home, group, "UPDATE").await?;
            group
        }
        None => make_group(&home.client, &key_types, count, &all.routes, epoch.0).await?,
    };
    let new = NewTable {
        schema: parent.schema.clone(),
        name: parent.name.clone(),
        owner: kept.owner.clone(),
        key_columns: parent.key_columns(),
        columns: parent.column_rows(),
        shard_count: None,
        is_granted: false,
    };
    insert(&home.client, group, &new).await?;
    let shards = placed(&home.client, group).await?;
    leaves(home, parent, &shards).await?;
    let stride = stride(&home.client).await?;
    try_join_all(all.others.iter().map(|peer| async {
        let roles = copy_all(&home.client, &peer.client).await;
        roles.map_err(|e| e.on_node(&peer.node.name))?;
        make_parent(&home.client, peer, parent, &parent.sequences, stride).await?;
        let owner = format!("ALTER TABLE {} OWNER TO {}", parent.quoted(), ident(&kept.owner));
        peer.run(&owner).await?;
        leaves(peer, parent, &shards).await
    }))
    .await?;
    Ok(shards)
}

/// Whether a row belongs to a node, as PostgreSQL tells it; empty: none does.
fn of_node(parent: &Shape, shards: &[Placed], peer: &Peer) -> String {
    let key = parent.key_columns().iter().map(|c| ident(c)).collect::<Vec<_>>().join(", ");
    let here = shards.iter().filter(|s| s.node == peer.node.id).map(|s| {
        let (oid, modulus, remainder) = (parent.oid, s.modulus, s.remainder);
        format!("pg_catalog.satisfies_hash_partition({oid}::oid, {modulus}, {remainder}, {key})")
    });
    here.collect::<Vec<_>>().join(" OR ")
}

/// Gives the home node's table its rows of `source`, which is there too.
async fn within_home(
    home: &Peer,
    shape: &Shape,
    source: &str,
    owner: &str,
) -> Result<u64, DdlError> {
    let stored = shape.columns.iter().filter(|c| !c.is_generated).map(|c| ident(&c.name));
    let (table, columns) = (shape.quoted(), stored.collect::<Vec<_>>().join(", "));
    let sql = format!(
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {source}"
    );
    home.run_as_owner(owner, &sql).await?;
    count(home, &table).await
}

async fn count(peer: &Peer, source: &str) -> Result<u64, DdlError> {
    let sql = format!("SELECT count(*) FROM {source}");
    let rows: i64 = peer.client.query_one(&sql, &[]).await?.try_get(0)?;
    Ok(rows.unsigned_abs())
}

async fn none_is_lost(peer: &Peer, source: &str, carried: u64) -> Result<(), DdlError> {
    let there = count(peer, source).await?;
    if there == carried {
        return Ok(());
    }
    Err(DdlError::new("XX000", format!("{carried} of {there} rows have come to their new place")))
}

/// The names of sequences, and behind which value they go on.
async fn last_values(peer: &Peer, sequences: &[Sequence]) -> Result<Vec<(String, i64)>, DdlError> {
    let mut last = Vec::new();
    for s in sequences {
        // Something else of the name, a view say, is refused by that; and what is none is locked.
        peer.run(&format!("ALTER SEQUENCE {} CACHE {}", s.quoted(), s.cache)).await?;
        let sql = format!("SELECT last_value, is_called FROM {}", s.quoted());
        let row = peer.client.query_one(&sql, &[]).await?;
        let (value, called): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        // One that was set and not called is to give out this value next.
        last.push((s.quoted(), if called { value } else { value.saturating_sub(s.increment) }));
    }
    Ok(last)
}

/// The new table gets what it is to keep, and the one before goes.
async fn end(all: &Everywhere, shape: &Shape, kept: &Kept) -> Result<(), DdlError> {
    let home = &all.home;
    let quoted = shape.quoted();
    let mut sql = kept.access.statements(&quoted, None);
    for sequence in &kept.identities {
        sql.extend(sequence.grants(&sequence.relation));
    }
    home.run(&sql.join("; ")).await?;
    home.client.execute(COMMENTS, &[&kept.oid, &quoted]).await?;
    // What else depends on it PostgreSQL says.
    home.client.batch_execute(&format!("DROP TABLE {}; DROP SCHEMA {ASIDE}", aside(shape))).await?;
    Ok(())
}

/// What of a table would be lost with it.
const LOSES: &str = "\
SELECT CASE
  WHEN EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AND c.relkind = 'r' THEN 'children'
  WHEN EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid) THEN 'rules'
  WHEN EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
    AND d.classid = 'pg_rewrite'::regclass) THEN 'views'
  WHEN EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype
    AND d.deptype = 'n')
    THEN 'a row type that others use'
  WHEN EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
    AND d.classid IN ('pg_proc'::regclass, 'pg_policy'::regclass) AND NOT EXISTS (
      SELECT FROM pg_policy p WHERE d.classid = 'pg_policy'::regclass AND p.oid = d.objid AND p.polrelid = c.oid))
    THEN 'functions or policies of others that use it'
  WHEN EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = c.oid) THEN 'extended statistics'
  WHEN EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = c.oid) THEN 'a publication'
  WHEN EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    THEN 'an extension that it belongs to'
  WHEN EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype = 'x') THEN 'an exclusion constraint'
  WHEN EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND NOT convalidated)
    THEN 'a constraint that is not validated'
  WHEN EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f'
    AND NOT (confdeltype IN ('a', 'r') AND confupdtype IN ('a', 'r'))) THEN 'a foreign key with actions'
  WHEN EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND NOT indisvalid) THEN 'an invalid index'
  WHEN EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid
    AND concat(polqual::text, polwithcheck::text) ~ '\\{SUBLINK') THEN 'a policy that has a sub-select'
  WHEN c.reloftype <> 0 THEN 'a type of its own (OF)'
  WHEN c.relam <> 0 AND (SELECT amname <> 'heap' FROM pg_am WHERE oid = c.relam) THEN 'another access method than heap'
END FROM pg_class c WHERE c.oid = $1";

/// Comments on the table that was, its columns, indexes and constraints: by their names.
const COMMENTS: &str = "\
WITH now AS (SELECT to_regclass($2)::oid AS oid)
INSERT INTO pg_description (objoid, classoid, objsubid, description)
SELECT now.oid, d.classoid, coalesce(n.attnum, 0), d.description
FROM now, pg_description d
  LEFT JOIN pg_attribute o ON d.objsubid > 0 AND o.attrelid = d.objoid AND o.attnum = d.objsubid
  LEFT JOIN pg_attribute n ON n.attrelid = to_regclass($2)::oid AND n.attname = o.attname
WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1 AND (d.objsubid = 0 OR n.attnum IS NOT NULL)
UNION ALL
SELECT nc.oid, d.classoid, 0, d.description
FROM now, pg_description d JOIN pg_class oc ON oc.oid = d.objoid
  JOIN pg_index oi ON oi.indexrelid = oc.oid AND oi.indrelid = $1, pg_index ni JOIN pg_class nc ON nc.oid = ni.indexrelid
WHERE d.classoid = 'pg_class'::regclass AND ni.indrelid = now.oid AND nc.relname = oc.relname
UNION ALL
SELECT n.oid, d.classoid, 0, d.description
FROM now, pg_description d JOIN pg_constraint o ON o.oid = d.objoid AND o.conrelid = $1, pg_constraint n
WHERE d.classoid = 'pg_constraint'::regclass AND n.conrelid = now.oid AND n.conname = o.conname";
