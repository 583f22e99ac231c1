//! ALTER TABLE: tried at home by the client, then made on all nodes from what came of it.
//!
//! ```text
//!   home    SAVEPOINT  the client's text, as the client  ─► shape after; what new columns begin with  ROLLBACK TO
//!   all     the statements that lead from the shape before to the one after, as the service role
//! ```
//!
//! The trial is undone, whatever the client's code did in it, and with it what the client was lent for it:
//! PostgreSQL asks for CREATE on the schemas of the leaves of whoever adds a key.
//!
//! A new column's default is computed once: what `now()` or `current_user` gives is a constant for the
//! rows that are there, the same on every node, and the expression is the default from then on.

use futures_util::future::try_join_all;
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};

use super::acting::Who;
use super::change::{find_one, name_leaves, no_moves, on_all};
use super::shape::Column;
use super::statement::{Alteration, Name};
use super::trust::Needs;
use super::{Client, DdlError, Everywhere, Peer, Shape};
use crate::catalog::raise_epoch;

/// What the rows that are there have in a new column.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Initial {
    Null,
    /// An SQL expression for a value that was computed once.
    Value(String),
    /// What the default gives for each row.
    EachItsOwn,
}

pub(super) async fn table(
    all: Everywhere,
    by: Client<'_>,
    name: &Name,
    alteration: Alteration,
) -> Result<Everywhere, DdlError> {
    let Some(found) = find_one(&all, by.who, name).await? else {
        // IF EXISTS, or an error; a local table does not come here.
        let mut all = all.run_text(by.request, by.who).await?;
        all.others.clear();
        return Ok(all);
    };
    no_moves(&all, std::slice::from_ref(&found)).await?;
    let before = Shape::read(&*all.home.client, found.oid).await?;
    all.home.run("SAVEPOINT trial").await?;
    if alteration.makes_index {
        lend_shards(&all.home, by.who, found.oid).await?;
    }
    let all = all.run_text(by.request, by.who).await?;
    let after = Shape::read(&*all.home.client, found.oid).await?;
    after.key_types()?;
    let needs = Needs::of(&all.home.client, by.who, found.oid).await?;
    let (mut all, initial) = initial_values(all, by.who, &before, &after).await?;
    all.home.run("ROLLBACK TO SAVEPOINT trial; RELEASE SAVEPOINT trial").await?;

    let sql = statements(&before, &after, &initial, alteration.cascade);
    if sql.is_empty() {
        all.others.clear();
        return Ok(all);
    }
    needs.check_elsewhere(&all).await?;
    on_all(&all, &sql.join("; ")).await?;
    name_leaves(&all, &found).await?;
    try_join_all(all.peers().map(|peer| same_shape(peer, &after))).await?;
    raise_epoch(&*all.home.client).await?;
    Ok(all)
}

/// Gives the client CREATE on the schemas of the leaves, until the trial is undone.
async fn lend_shards(home: &Peer, who: &Who, parent: u32) -> Result<(), DdlError> {
    let rows = home
        .client
        .query(
            "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class c \
             JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = $1",
            &[&parent],
        )
        .await?;
    let schemas: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    if schemas.is_empty() {
        return Ok(());
    }
    let (schemas, role) = (schemas.join(", "), ident(&who.role));
    home.run(&format!("GRANT CREATE ON SCHEMA {schemas} TO {role}")).await
}

/// Asks PostgreSQL what the columns that `after` has more begin with: on a table of its own, to which the
/// client adds them.
async fn initial_values(
    mut all: Everywhere,
    who: &Who,
    before: &Shape,
    after: &Shape,
) -> Result<(Everywhere, Vec<(i16, Initial)>), DdlError> {
    const HERE: &str = "\
        SELECT c.relfilenode, a.atthasmissing, (a.attmissingval::text::text[])[1] \
        FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = $1 \
        WHERE c.oid = to_regclass('pg_temp.pgshunt_columns')";
    let mut initial = Vec::new();
    for column in after.columns.iter().filter(|c| before.column(c.number).is_none()) {
        let Some(default) = &column.default else {
            initial.push((column.number, Initial::Null));
            continue;
        };
        all.home
            .run(&format!(
                "DROP TABLE IF EXISTS pg_temp.pgshunt_columns; CREATE TEMP TABLE pgshunt_columns (); \
                 ALTER TABLE pg_temp.pgshunt_columns OWNER TO {}",
                ident(&who.role)
            ))
            .await?;
        let made: u32 = all.home.client.query_one(HERE, &[&0i16]).await?.try_get(0)?;
        let add = format!(
            "ALTER TABLE pg_temp.pgshunt_columns ADD COLUMN v {} DEFAULT {default}",
            column.kind
        );
        all = all.run_as(who, &add).await?;
        let row = all.home.client.query_one(HERE, &[&1i16]).await?;
        let value: Option<String> = row.try_get(2)?;
        let begins = if row.try_get::<_, u32>(0)? != made {
            if !column.is_constant && !who.superuser {
                return Err(DdlError::unsupported(format!(
                    "column \"{}\" cannot be added with a default that is computed for each row",
                    column.name
                ))
                .hint("Add the column without a default, then ALTER COLUMN ... SET DEFAULT and UPDATE."));
            }
            Initial::EachItsOwn
        } else if row.try_get(1)? {
            value.map_or(Initial::Null, |v| {
                Initial::Value(format!("{}::{}", literal(&v), column.type_name))
            })
        } else {
            Initial::Null
        };
        initial.push((column.number, begins));
    }
    Ok((all, initial))
}

/// What leads from the one shape to the other.
fn statements(
    before: &Shape,
    after: &Shape,
    initial: &[(i16, Initial)],
    cascade: bool,
) -> Vec<String> {
    let table = after.quoted();
    let mut sql = Vec::new();
    let mut gone: Vec<&Column> =
        before.columns.iter().filter(|c| after.column(c.number).is_none()).collect();
    // What is computed from others goes before them.
    gone.sort_by_key(|c| !c.is_generated);
    for column in gone {
        let (exists, how) = if cascade { ("IF EXISTS ", " CASCADE") } else { ("", "") };
        sql.push(format!("ALTER TABLE {table} DROP COLUMN {exists}{}{how}", ident(&column.name)));
    }
    for column in &after.columns {
        let name = ident(&column.name);
        let alter = format!("ALTER TABLE {table} ALTER COLUMN {name}");
        let Some(was) = before.column(column.number) else {
            let begins = initial.iter().find(|(n, _)| *n == column.number).map(|(_, i)| i);
            let default = match begins {
                Some(Initial::Value(value)) => format!(" DEFAULT {value}"),
                Some(Initial::EachItsOwn) => {
                    format!(" DEFAULT {}", column.default.as_deref().unwrap_or("NULL"))
                }
                Some(Initial::Null) | None => String::new(),
            };
            let not_null = if column.not_null { " NOT NULL" } else { "" };
            sql.push(format!(
                "ALTER TABLE {table} ADD COLUMN {name} {}{default}{not_null}",
                column.kind
            ));
            sql.extend(column.default.iter().map(|d| format!("{alter} SET DEFAULT {d}")));
            continue;
        };
        if was.name != column.name {
            sql.push(format!("ALTER TABLE {table} RENAME COLUMN {} TO {name}", ident(&was.name)));
            // It is a statement of its own, and what else changes are texts with the name in them.
            return sql;
        }
        match (&was.default, &column.default) {
            (was, is) if was == is => {}
            (_, Some(default)) => sql.push(format!("{alter} SET DEFAULT {default}")),
            (_, None) => sql.push(format!("{alter} DROP DEFAULT")),
        }
        if was.not_null != column.not_null {
            let how = if column.not_null { "SET" } else { "DROP" };
            sql.push(format!("{alter} {how} NOT NULL"));
        }
    }
    let settings = after.column_settings.iter().filter(|s| !before.column_settings.contains(s));
    sql.extend(settings.map(|s| format!("ALTER TABLE {table} {s}")));
    let added = after.constraints.iter().filter(|c| !before.constraints.contains(c));
    sql.extend(added.map(|c| format!("ALTER TABLE {table} ADD {c}")));
    sql
}

/// A last look: is the table the same on this node?
async fn same_shape(peer: &Peer, wanted: &Shape) -> Result<(), DdlError> {
    let oid: u32 = peer
        .client
        .query_one("SELECT to_regclass($1)::oid", &[&wanted.quoted()])
        .await
        .and_then(|r| r.try_get(0))
        .map_err(|e| peer.blame(e))?;
    let here = Shape::read(&*peer.client, oid).await?;
    if here.same_columns(wanted) {
        return Ok(());
    }
    Err(DdlError::new(
        "55000",
        format!("table \"{}\" would not be the same on all nodes", wanted.name),
    )
    .hint("It was changed directly on a node; make it the same everywhere first.")
    .on_node(&peer.node.name))
}
