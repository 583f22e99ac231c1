//! Reference tables: a table of the home node's becomes one that every node has in full, with its rows.
//!
//! ```text
//!   home    ALTER TABLE .. ADD CONSTRAINT pgshunt_reference CHECK (true), as the client: PostgreSQL judges, and
//!           nobody uses the table until the end
//!   others  the same table, as the service role (`Shape`) ─► its rows, as its owner ─► its grants
//! ```
//!
//! The service role evaluates nothing of the owner's for rows: CHECKs, generated columns and index expressions
//! are computed while rows come, within a function that belongs to the owner ([`Peer::run_as_owner`]). What
//! making the table computes is as for distributed tables ([`super::trust`]).

use futures_util::future::try_join_all;
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};

use super::access;
use super::acting::Who;
use super::change::{lock, look_up};
use super::create::{find_group, insert, make_group, stands_alone};
use super::objects;
use super::roles::copy_all;
use super::statement::Name;
use super::trust::Needs;
use super::{Client, DdlError, Everywhere, Peer, Shape, no_move};
use crate::catalog::raise_epoch;
use crate::router::REFERENCE_MARK;
use crate::topology::NewTable;

/// Rows that are read, and written, at once.
const ROWS: usize = 100;

/// `SELECT create_reference_table('t')`
pub(super) async fn adopt(
    all: Everywhere,
    by: Client<'_>,
    name: &Name,
) -> Result<Everywhere, DdlError> {
    let relation = look_up(&all, by.who, name).await?.ok_or_else(|| {
        DdlError::new("42P01", format!("relation {} does not exist", name.quoted()))
    })?;
    if let Some(table) = all.routes.table_by_name(&relation.schema, &relation.name) {
        let what = if table.is_reference() { "a reference table" } else { "distributed" };
        return Err(DdlError::new("42710", format!("table \"{}\" is {what} already", table.name)));
    }
    let quoted = format!("{}.{}", ident(&relation.schema), ident(&relation.name));
    let mark = format!(
        "ALTER TABLE {quoted} DROP CONSTRAINT IF EXISTS {REFERENCE_MARK}, \
         ADD CONSTRAINT {REFERENCE_MARK} CHECK (true)"
    );
    let mut all = all.run_as(by.who, &mark).await?;
    // That it had no such constraint is no news to the client.
    all.home.notices();
    let home = &all.home;
    lock(home, &quoted, "r", Some(relation.oid)).await?;
    stands_for_itself(home, relation.oid).await?;
    let shape = Shape::of_reference(&*home.client, relation.oid).await?;
    let warning = stands_alone(&home.client, &by.who.role, (&shape.schema, &shape.name)).await?;
    let owner = owner_of(home, relation.oid).await?;
    // What counts is who has written the table, not who asks.
    let mut judged: Who = by.who.clone();
    judged.superuser = owner.1;
    let needs = Needs::of(&home.client, &judged, relation.oid).await?;
    needs.check_elsewhere(&all).await?;
    let epoch = raise_epoch(&*home.client).await?;
    let group = match find_group(&home.client, &[], 0, &shape.name).await? {
        Some(group) => {
            no_move(home, group, "UPDATE").await?;
            group
        }
        None => make_group(&home.client, &[], 0, &all.routes, epoch.0).await?,
    };
    let new = NewTable {
        schema: shape.schema.clone(),
        name: shape.name.clone(),
        owner: owner.0.clone(),
        key_columns: Vec::new(),
        columns: shape.column_rows(),
        shard_count: None,
        is_granted: false,
    };
    insert(&home.client, group, &new).await?;
    for peer in &all.others {
        let roles = copy_all(&home.client, &peer.client).await;
        roles.map_err(|e| e.on_node(&peer.node.name))?;
    }
    try_join_all(all.others.iter().map(|peer| make(home, peer, &shape))).await?;
    // One after the other: they read by one connection.
    for peer in &all.others {
        fill(home, peer, &shape).await?;
    }
    access::follow(&all, &shape.schema, &shape.name).await?;
    all.warnings.extend(warning);
    Ok(all)
}

/// Refuses what the other nodes would lack of the table.
async fn stands_for_itself(home: &Peer, table: u32) -> Result<(), DdlError> {
    const MORE: &str = "\
        SELECT CASE WHEN EXISTS (SELECT FROM pg_inherits WHERE inhparent = $1) THEN 'children' \
          WHEN EXISTS (SELECT FROM pg_rewrite WHERE ev_class = $1) THEN 'rules' \
          WHEN EXISTS (SELECT FROM pg_policy WHERE polrelid = $1) THEN 'row security policies' END";
    let more: Option<String> = home.client.query_one(MORE, &[&table]).await?.try_get(0)?;
    match more {
        None => Ok(()),
        Some(what) => Err(DdlError::unsupported(format!(
            "a table with {what} cannot become a reference table"
        ))),
    }
}

/// The owner's name, and whether it is a superuser.
pub(super) async fn owner_of(home: &Peer, table: u32) -> Result<(String, bool), DdlError> {
    let sql = "SELECT r.rolname::text, r.rolsuper FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner \
        WHERE c.oid = $1";
    let row = home.client.query_one(sql, &[&table]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Makes the table, empty, on another node than home. Grants are brought when it has its rows.
async fn make(home: &Peer, peer: &Peer, shape: &Shape) -> Result<(), DdlError> {
    let on_node = |e: DdlError| e.on_node(&peer.node.name);
    objects::bring_schema(&home.client, &peer.client, &shape.schema).await.map_err(on_node)?;
    let statements = shape.create_statements(&shape.sequences).join("; ");
    peer.run(&statements).await.map_err(DdlError::only_at_home)?;
    let (owner, _) = owner_of(home, shape.oid).await?;
    peer.run(&format!("ALTER TABLE {} OWNER TO {}", shape.quoted(), ident(&owner))).await
}

/// Gives the table on another node its rows. The home node's are kept as they are by whoever calls this.
async fn fill(home: &Peer, peer: &Peer, shape: &Shape) -> Result<(), DdlError> {
    let (owner, _) = owner_of(home, shape.oid).await?;
    let source = format!("ONLY {}", shape.quoted());
    carry((home, &source), (peer, &owner), shape).await.map(|_| ())
}

/// Gives a table on one node the rows that another one has in `source`, by the rights of the table's owner. Tells
/// how many they are.
pub(super) async fn carry(
    (home, source): (&Peer, &str),
    (peer, owner): (&Peer, &str),
    shape: &Shape,
) -> Result<u64, DdlError> {
    let stored: Vec<&str> =
        shape.columns.iter().filter(|c| !c.is_generated).map(|c| c.name.as_str()).collect();
    let table = shape.quoted();
    if stored.is_empty() {
        return Err(DdlError::unsupported("a table on all nodes needs a column"));
    }
    let columns = stored.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", ");
    // By the types' output functions: a cast to text may be code of the type's owner.
    let texts: Vec<String> = stored
        .iter()
        .map(|c| ident(c))
        .map(|c| {
            format!("CASE WHEN {c} IS NULL THEN 'NULL' ELSE quote_literal(format('%s', {c})) END")
        })
        .collect();
    home.run(&format!(
        "DECLARE pgshunt_rows NO SCROLL CURSOR FOR SELECT concat('(', concat_ws(', ', {}), ')') FROM {source}",
        texts.join(", ")
    ))
    .await?;
    let mut carried = 0;
    loop {
        let rows = home.client.query(&format!("FETCH {ROWS} FROM pgshunt_rows"), &[]).await?;
        let rows: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        let sql = format!(
            "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES {}",
            rows.join(", ")
        );
        carried += rows.len() as u64;
        peer.run_as_owner(owner, &sql).await.map_err(|e| e.on_node(&peer.node.name))?;
    }
    home.run("CLOSE pgshunt_rows").await?;
    Ok(carried)
}

/// ADD NODE: the new node gets the table and its rows, which nobody changes until the end. Whoever waits for that
/// learns from `pgshunt.hold` that there is another node.
pub(in crate::catalog) async fn bring(
    home: &Peer,
    peer: &Peer,
    (schema, name): (&str, &str),
) -> Result<(), DdlError> {
    let quoted = format!("{}.{}", ident(schema), ident(name));
    home.run(&format!("LOCK TABLE ONLY {quoted} IN SHARE MODE")).await?;
    let sql = format!("SELECT {}::regclass::oid", literal(&quoted));
    let oid: u32 = home.client.query_one(&sql, &[]).await?.try_get(0)?;
    let shape = Shape::of_reference(&*home.client, oid).await?;
    make(home, peer, &shape).await?;
    fill(home, peer, &shape).await
}
