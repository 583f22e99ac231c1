//! `CREATE TABLE .. PARTITION OF` and `ATTACH PARTITION` of a distributed table, as pgbench and dumps send them:
//! taken as declarations.
//!
//! What rows a hash partition has is told by its modulus and remainder, and a distributed table has shards for all
//! of them from the beginning. So nothing is made for a partition of the table's own modulus: its rows are where
//! they belong already. Its name is remembered, for no other one to have it and for statements on it to be refused
//! with the reason ([`crate::topology::hidden`]); it goes with the table.

use postgres_protocol::escape::escape_identifier as ident;

use super::change::{Found, find_one, look_up, owned};
use super::create::placed;
use super::declaration::{Bound, Partition, refused};
use super::naming::Name;
use super::{Client, DdlError, Everywhere, Notice, Shape};
use crate::catalog::raise_epoch;

/// The table, which the client must own, as it must to have partitions made of it.
async fn table_of(
    all: &Everywhere,
    by: Client<'_>,
    partition: &Partition,
) -> Result<Found, DdlError> {
    let Some(found) = find_one(all, by.who, &partition.table).await? else {
        let name = &partition.table.name;
        return Err(DdlError::new("42P01", format!("relation \"{name}\" does not exist")));
    };
    owned(all, by, found.oid, &found.table.name).await?;
    let modulus = match placed(&all.home.client, found.table.group).await?.first() {
        Some(shard) => i32::try_from(shard.modulus).unwrap_or(i32::MAX),
        None => return Err(refused("be one of a reference table")),
    };
    if modulus != partition.bound.modulus {
        let wanted = partition.bound.modulus;
        return Err(DdlError::unsupported(format!(
            "table \"{}\" has {modulus} shards, and no partitions of modulus {wanted}",
            found.table.name
        ))
        .hint(format!("SET pgshunt.shard_count = {wanted} before its CREATE TABLE.")));
    }
    Ok(found)
}

/// `CREATE TABLE .. PARTITION OF`
pub(super) async fn declare(
    mut all: Everywhere,
    by: Client<'_>,
    partition: &Partition,
) -> Result<Everywhere, DdlError> {
    let found = table_of(&all, by, partition).await?;
    let schema = partition.name.schema.clone().or_else(|| by.who.creates_in.clone());
    let Some(schema) = schema else {
        return Err(DdlError::new("3F000", "no schema has been selected to create in"));
    };
    let name = Name { schema: Some(schema.clone()), name: partition.name.name.clone() };
    let exists = format!("relation \"{}\" already exists", name.name);
    if look_up(&all, by.who, &name).await?.is_some() || is_declared(&all, &name).await? {
        if !partition.if_not_exists {
            return Err(DdlError::new("42P07", exists));
        }
        all.warnings.push(notice("42P07", format!("{exists}, skipping")));
        all.others.clear();
        return Ok(all);
    }
    const MAY: &str = "SELECT has_schema_privilege($1::text, n.oid, 'CREATE') FROM pg_namespace n \
        WHERE n.nspname::text = $2";
    let may = all.home.client.query_opt(MAY, &[&by.who.role, &schema]).await?;
    match may.map(|r| r.try_get(0)).transpose()? {
        Some(true) => {}
        Some(false) => {
            return Err(DdlError::new("42501", format!("permission denied for schema {schema}")));
        }
        None => return Err(DdlError::new("3F000", format!("schema \"{schema}\" does not exist"))),
    }
    remember(all, &found, &name, partition.bound).await
}

/// `ALTER TABLE .. ATTACH PARTITION`: of a table of the home node's that has no rows yet.
pub(super) async fn attach(
    all: Everywhere,
    by: Client<'_>,
    partition: &Partition,
) -> Result<Everywhere, DdlError> {
    let found = table_of(&all, by, partition).await?;
    let Some(part) = look_up(&all, by.who, &partition.name).await? else {
        let name = &partition.name.name;
        return Err(DdlError::new("42P01", format!("relation \"{name}\" does not exist")));
    };
    owned(&all, by, part.oid, &part.name).await?;
    let name = Name { schema: Some(part.schema.clone()), name: part.name.clone() };
    let quoted = format!("{}.{}", ident(&part.schema), ident(&part.name));
    all.home.run(&format!("LOCK TABLE ONLY {quoted} IN ACCESS EXCLUSIVE MODE")).await?;
    if all.routes.table_by_name(&part.schema, &part.name).is_some() {
        return Err(refused("be a table that is on all nodes"));
    }
    if is_declared(&all, &name).await? {
        let what = format!("\"{}\" is a partition already", part.name);
        return Err(DdlError::new("42809", what));
    }
    let parent = Shape::read(&*all.home.client, found.oid).await?;
    let shape = Shape::of_reference(&*all.home.client, part.oid).await?;
    has_its_columns(&parent, &shape)?;
    // Nothing of the owner's is evaluated to count them.
    let rows: bool = all
        .home
        .client
        .query_one("SELECT pg_relation_size($1::oid::regclass) > 0", &[&part.oid])
        .await?
        .try_get(0)?;
    if rows {
        return Err(DdlError::unsupported(
            "a table with rows cannot be attached to a distributed one",
        )
        .hint(format!(
            "INSERT INTO {} SELECT * FROM {quoted}, then TRUNCATE {quoted} and attach it.",
            parent.quoted()
        )));
    }
    // What else depends on it PostgreSQL says.
    let all = all.run_as(by.who, &format!("DROP TABLE {quoted}")).await?;
    remember(all, &found, &name, partition.bound).await
}

/// Refuses a table that could not be a partition of the other one.
fn has_its_columns(parent: &Shape, part: &Shape) -> Result<(), DdlError> {
    for column in &parent.columns {
        let Some(own) = part.columns.iter().find(|c| c.name == column.name) else {
            let what = format!("child table is missing column \"{}\"", column.name);
            return Err(DdlError::new("42804", what));
        };
        if own.kind != column.kind {
            let what = format!(
                "child table \"{}\" has different type for column \"{}\"",
                part.name, column.name
            );
            return Err(DdlError::new("42804", what));
        }
        if column.not_null && !own.not_null {
            let what = format!("column \"{}\" in child table must be marked NOT NULL", column.name);
            return Err(DdlError::new("42804", what));
        }
    }
    let known = |name: &String| parent.columns.iter().any(|c| c.name == *name);
    if let Some(other) = part.columns.iter().map(|c| &c.name).find(|n| !known(n)) {
        let what = format!(
            "table \"{}\" contains column \"{other}\" not found in parent \"{}\"",
            part.name, parent.name
        );
        return Err(DdlError::new("42804", what));
    }
    Ok(())
}

/// A partition of a table that is there bears the name.
async fn is_declared(all: &Everywhere, name: &Name) -> Result<bool, DdlError> {
    let home = &all.home.client;
    // A client's transaction may have dropped the table.
    home.execute(
        "DELETE FROM pgshunt.partitions p WHERE NOT EXISTS ( \
           SELECT FROM pgshunt.tables t JOIN pg_namespace n ON n.nspname::text = t.schema_name \
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname::text = t.table_name \
           WHERE t.table_id = p.table_id)",
        &[],
    )
    .await?;
    let sql = "SELECT FROM pgshunt.partitions WHERE schema_name = $1 AND partition_name = $2";
    Ok(home.query_opt(sql, &[&name.schema, &name.name]).await?.is_some())
}

async fn remember(
    mut all: Everywhere,
    found: &Found,
    name: &Name,
    bound: Bound,
) -> Result<Everywhere, DdlError> {
    let home = &all.home.client;
    let sql =
        "SELECT partition_name FROM pgshunt.partitions WHERE table_id = $1 AND remainder = $2";
    if let Some(row) = home.query_opt(sql, &[&found.table.id.0, &bound.remainder]).await? {
        let other: String = row.try_get(0)?;
        let what = format!("partition \"{}\" would overlap partition \"{other}\"", name.name);
        return Err(DdlError::new("42P17", what));
    }
    let sql = "INSERT INTO pgshunt.partitions (table_id, schema_name, partition_name, remainder) \
        VALUES ($1, $2, $3, $4)";
    home.execute(sql, &[&found.table.id.0, &name.schema, &name.name, &bound.remainder]).await?;
    raise_epoch(&**home).await?;
    all.warnings.push(notice(
        "00000",
        format!(
            "\"{}\" is no table of its own: its rows are in the shards of \"{}\"",
            name.name, found.table.name
        ),
    ));
    all.others.clear();
    Ok(all)
}

fn notice(sqlstate: &str, message: String) -> Notice {
    Notice {
        severity: "NOTICE".into(),
        sqlstate: sqlstate.into(),
        message,
        detail: None,
        hint: None,
    }
}
