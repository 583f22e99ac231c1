//! CREATE TABLE ... PARTITION BY HASH: parents on all nodes, leaves on those that serve the shards.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::access;
use super::change::{is_not_ours, look_up};
use super::objects;
use super::roles::copy_all;
use super::statement::Name;
use super::trust::Needs;
use super::{DdlError, Everywhere, Notice, Peer, Sequence, Shape, no_move, shape};
use crate::catalog::raise_epoch;
use crate::catalog::reserved::must_be_ours;
use crate::hash::KeyType;
use crate::topology::{GroupId, NewTable, NodeId, RoutingTable, TableId};

/// A shard is a schema on a node and a leaf per table; more of them than this is a mistake.
const MOST_SHARDS: u32 = 4096;
/// A node's slot in every sequence is its id, so this is also the highest node id.
const SEQUENCE_STRIDE: i64 = 32;

/// A shard and the node that serves it.
pub(super) struct Placed {
    pub id: i32,
    pub modulus: u32,
    pub remainder: u32,
    pub node: NodeId,
}

pub(super) async fn table(
    all: Everywhere,
    by: super::Client<'_>,
    name: &Name,
) -> Result<Everywhere, DdlError> {
    let who = by.who;
    let creates_in = name.schema.clone().or_else(|| who.creates_in.clone());
    let new = Name { schema: Some(creates_in.unwrap_or_default()), name: name.name.clone() };
    let there = look_up(&all, who, &new).await?;
    let mut all = all.run_text(by.request, who).await?;
    if there.is_some() {
        // IF NOT EXISTS, or the node would have refused; its notice says so.
        all.others.clear();
        return Ok(all);
    }
    let made = look_up(&all, who, &new).await?.ok_or_else(|| {
        DdlError::new("XX000", format!("table {} was created but is not found", name.quoted()))
    })?;
    let (home, oid) = (&all.home, made.oid);

    let shape = Shape::read(&*home.client, oid).await?;
    let warning = stands_alone(&home.client, &who.role, (&shape.schema, &shape.name)).await?;
    let key_types = shape.key_types()?;
    let needs = Needs::of(&home.client, who, oid).await?;
    needs.check_elsewhere(&all).await?;
    let epoch = raise_epoch(&*home.client).await?;
    let shard_count = shard_count(&home.client, who.shard_count.as_deref()).await?;
    let group = match find_group(&home.client, &key_types, shard_count, &shape.name).await? {
        Some(group) => {
            no_move(home, group, "UPDATE").await?;
            group
        }
        None => make_group(&home.client, &key_types, shard_count, &all.routes, epoch.0).await?,
    };
    let new = NewTable {
        schema: shape.schema.clone(),
        name: shape.name.clone(),
        owner: who.role.clone(),
        key_columns: shape.key_columns(),
        columns: shape.column_rows(),
        shard_count: None,
        is_granted: false,
    };
    insert(&home.client, group, &new).await?;

    // At home the table is there already, with its sequences as declared.
    let stride = stride(&home.client).await?;
    let mut restarts = Vec::new();
    for s in slotted(&shape.sequences, home.node.id, stride)? {
        restarts.push(s.restart());
    }
    home.run(&restarts.join("; ")).await?;
    let placed = placed(&home.client, group).await?;
    leaves(home, &shape, &placed).await?;
    try_join_all(all.others.iter().map(|peer| async {
        let roles = copy_all(&home.client, &peer.client).await;
        roles.map_err(|e| e.on_node(&peer.node.name))?;
        parent(&home.client, peer, &shape, &shape.sequences, stride).await?;
        leaves(peer, &shape, &placed).await
    }))
    .await?;
    access::follow(&all, &shape.schema, &shape.name).await?;
    all.warnings.extend(warning);
    Ok(all)
}

/// A table of the home node's that is called like a distributed one in another schema: with its epoch the
/// router learns that a name without a schema could mean either.
pub(super) async fn local(all: Everywhere, by: super::Client<'_>) -> Result<Everywhere, DdlError> {
    is_not_ours(by.who.creates_in.as_deref().unwrap_or_default())?;
    let mut all = all.run_text(by.request, by.who).await?;
    all.others.clear();
    raise_epoch(&*all.home.client).await?;
    Ok(all)
}

/// The sequences as this node has them, from what was declared.
pub(super) fn slotted(
    declared: &[Sequence],
    node: NodeId,
    stride: i64,
) -> Result<Vec<Sequence>, DdlError> {
    if !declared.is_empty() && i64::from(node.0) > stride {
        return Err(DdlError::new("54000", format!("node {node} has no slot in sequences"))
            .detail(format!("The setting sequence_stride is {stride}.")));
    }
    declared.iter().map(|s| s.in_slot(node.0, stride)).collect()
}

/// Makes the parent on a node that is not the home node. Owner and grants are brought afterwards.
pub(in crate::catalog) async fn parent(
    home: &Client,
    peer: &Peer,
    shape: &Shape,
    declared: &[Sequence],
    stride: i64,
) -> Result<(), DdlError> {
    let on_node = |e: DdlError| e.on_node(&peer.node.name);
    objects::bring_schema(home, &peer.client, &shape.schema).await.map_err(on_node)?;
    let sequences = slotted(declared, peer.node.id, stride)?;
    peer.run(&shape.create_statements(&sequences).join("; ")).await.map_err(DdlError::only_at_home)
}

/// Refuses a table whose name means something else to everybody, or that a function of the client's or of a
/// superuser's names: it would read one node's part. Of another role's function there is a warning: what
/// others write does not keep the client from its tables.
pub(super) async fn stands_alone(
    home: &Client,
    role: &str,
    (schema, name): (&str, &str),
) -> Result<Option<Notice>, DdlError> {
    const SYSTEM: &str = "\
        SELECT FROM pg_class WHERE relname = $1::text::name AND relnamespace = 'pg_catalog'::regnamespace";
    const FUNCTION: &str = "\
        SELECT p.oid::regprocedure::text, r.rolsuper OR r.rolname::text = $3 AS refused \
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_roles r ON r.oid = p.proowner \
        WHERE p.pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pgshunt') \
          AND l.lanname NOT IN ('c', 'internal') \
          AND p.prosrc ~* CASE WHEN lower($4) = ANY (p.proargnames) THEN $2 ELSE $1 END \
        ORDER BY refused DESC LIMIT 1";
    if home.query_opt(SYSTEM, &[&name]).await?.is_some() {
        return Err(DdlError::unsupported(format!(
            "\"{name}\" is the name of one of PostgreSQL's own tables"
        ))
        .hint("Choose another name."));
    }
    let escaped = |name: &str| -> String {
        let name = name.replace('"', "\"\"");
        let plain = |c: char| c.is_alphanumeric() || c == '_';
        name.chars().map(|c| if plain(c) { c.to_string() } else { format!("\\{c}") }).collect()
    };
    let (called, schema, name) = (name, escaped(schema), escaped(name));
    let ends = "([^[:alnum:]_$]|$)";
    // Its name alone, or behind that of its schema, but not behind any other.
    let word = format!(
        "(^|[^[:alnum:]_$.\"]|[^.]\"|(^|[^[:alnum:]_$]){schema}\"?\\s*\\.\\s*\"?){name}{ends}"
    );
    let place = "\\m(from|join|into|update|table|only|using|truncate|lock|copy)\\s+";
    let table = format!("{place}\"?({schema}\"?\\s*\\.\\s*\"?)?{name}{ends}");
    let found = home.query_opt(FUNCTION, &[&word, &table, &role, &called]).await?;
    let Some(row) = found else { return Ok(None) };
    let (function, refused): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
    let message =
        format!("function {function} names \"{called}\" and would read one node's part of it");
    if refused {
        return Err(DdlError::unsupported(message)
            .hint("Drop the function, or choose another name for the table."));
    }
    Ok(Some(Notice {
        severity: "WARNING".into(),
        sqlstate: "01000".into(),
        message,
        detail: None,
        hint: None,
    }))
}

pub(super) async fn leaves(peer: &Peer, shape: &Shape, placed: &[Placed]) -> Result<(), DdlError> {
    let mut sql = Vec::new();
    let mut schemas = Vec::new();
    for shard in placed.iter().filter(|s| s.node == peer.node.id) {
        let schema = format!("shard_{}", shard.id);
        sql.extend(shape.leaf_statements(&schema, shard.modulus, shard.remainder));
        schemas.push(schema);
    }
    sql.push(must_be_ours(&schemas));
    peer.run(&sql.join("; ")).await?;
    shape::name_leaf_indexes(peer, &shape.schema, &shape.name).await
}

/// `said`: by the session.
pub(super) async fn shard_count(home: &Client, said: Option<&str>) -> Result<u32, DdlError> {
    let text = match said {
        Some(text) => text.to_owned(),
        None => setting(home, "shard_count").await?.unwrap_or_else(|| "16".into()),
    };
    text.trim().parse().ok().filter(|n| (1..=MOST_SHARDS).contains(n)).ok_or_else(|| {
        DdlError::new("22023", format!("pgshunt.shard_count cannot be \"{text}\""))
            .hint(format!("It is a number from 1 to {MOST_SHARDS}."))
    })
}

pub(in crate::catalog) async fn stride(home: &Client) -> Result<i64, DdlError> {
    let text = setting(home, "sequence_stride").await?;
    Ok(text.and_then(|t| t.parse().ok()).filter(|s| *s > 0).unwrap_or(SEQUENCE_STRIDE))
}

async fn setting(home: &Client, name: &str) -> Result<Option<String>, DdlError> {
    let row =
        home.query_opt("SELECT value FROM pgshunt.settings WHERE name = $1", &[&name]).await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

/// Gives the table its entry. One of a table of this name that has gone is none any more.
pub(super) async fn insert(
    home: &Client,
    group: GroupId,
    new: &NewTable,
) -> Result<TableId, DdlError> {
    let (names, types): (Vec<&str>, Vec<u32>) =
        new.columns.iter().map(|c| (c.name.as_str(), c.type_oid)).unzip();
    let row = home
        .query_one(
            "INSERT INTO pgshunt.tables \
             (group_id, schema_name, table_name, key_columns, column_names, column_types) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING table_id",
            &[&group.0, &new.schema, &new.name, &new.key_columns, &names, &types],
        )
        .await?;
    Ok(TableId(row.try_get(0)?))
}

/// Tables with the same key types and shard count share a group, so that they can be joined. Not
/// two of the same name from different schemas: their leaves would have one name, too.
pub(super) async fn find_group(
    home: &Client,
    key_types: &[KeyType],
    shard_count: u32,
    table: &str,
) -> Result<Option<GroupId>, DdlError> {
    let names: Vec<&str> = key_types.iter().map(|t| t.name()).collect();
    let row = home
        .query_opt(
            "SELECT group_id FROM pgshunt.colocation_groups g \
             WHERE key_types = $1 AND shard_count = $2 AND NOT EXISTS (\
               SELECT FROM pgshunt.tables t WHERE t.group_id = g.group_id AND t.table_name = $3) \
             ORDER BY group_id LIMIT 1",
            &[&names, &(shard_count as i32), &table],
        )
        .await?;
    Ok(row.map(|r| r.try_get(0).map(GroupId)).transpose()?)
}

/// A new group, its shards dealt out to the nodes in turn.
pub(super) async fn make_group(
    home: &Client,
    key_types: &[KeyType],
    shard_count: u32,
    routes: &RoutingTable,
    epoch: i64,
) -> Result<GroupId, DdlError> {
    let names: Vec<&str> = key_types.iter().map(|t| t.name()).collect();
    let nodes: Vec<i32> = routes.nodes().map(|n| n.id.0).collect();
    let group: i32 = home
        .query_one(
            "INSERT INTO pgshunt.colocation_groups (key_types, shard_count) VALUES ($1, $2) \
             RETURNING group_id",
            &[&names, &(shard_count as i32)],
        )
        .await?
        .try_get(0)?;
    home.execute(
        "WITH made AS (\
           INSERT INTO pgshunt.shards (group_id, modulus, remainder) \
           SELECT $1, $2, r FROM generate_series(0, $2 - 1) r ORDER BY r \
           RETURNING shard_id, remainder) \
         INSERT INTO pgshunt.placements (shard_id, node_id, state, since) \
         SELECT shard_id, ($3::int[])[1 + remainder % cardinality($3::int[])], 'active', $4 FROM made",
        &[&group, &(shard_count as i32), &nodes, &epoch],
    )
    .await?;
    Ok(GroupId(group))
}

pub(super) async fn placed(home: &Client, group: GroupId) -> Result<Vec<Placed>, DdlError> {
    let rows = home
        .query(
            "SELECT s.shard_id, s.modulus, s.remainder, p.node_id \
             FROM pgshunt.shards s JOIN pgshunt.placements p USING (shard_id) \
             WHERE s.group_id = $1 AND p.role = 'primary' AND p.state = 'active' \
             ORDER BY s.remainder",
            &[&group.0],
        )
        .await?;
    let mut by_remainder = BTreeMap::new();
    for row in rows {
        let (modulus, remainder): (i32, i32) = (row.try_get(1)?, row.try_get(2)?);
        let shard = Placed {
            id: row.try_get(0)?,
            modulus: modulus as u32,
            remainder: remainder as u32,
            node: NodeId(row.try_get(3)?),
        };
        if by_remainder.insert(shard.remainder, shard).is_some() {
            return Err(DdlError::new("XX000", format!("remainder {remainder} is served twice")));
        }
    }
    Ok(by_remainder.into_values().collect())
}
