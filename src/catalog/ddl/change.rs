//! DDL on distributed tables that are there: DROP, TRUNCATE, indexes.

use std::sync::Arc;

use futures_util::future::try_join_all;
use postgres_protocol::escape::escape_identifier as ident;

use super::acting::Who;
use super::statement::Name;
use super::trust::Needs;
use super::{Client, DdlError, Everywhere, Peer, no_move, shape};
use crate::catalog::raise_epoch;
use crate::topology::{DistributedTable, GroupId, leaf_schema};

/// A distributed table the client named, as the home node found it.
pub(super) struct Found {
    pub oid: u32,
    pub table: Arc<DistributedTable>,
}

impl Found {
    fn quoted(&self) -> String {
        format!("{}.{}", ident(&self.table.schema), ident(&self.table.name))
    }
}

/// Looks the names up as the client would. Names that are not distributed tables are left to the home node
/// to judge.
///
/// # Errors
/// A name means a table of pgshunt's own, a part of a shard perhaps.
async fn find(all: &Everywhere, who: &Who, names: &[Name]) -> Result<Vec<Found>, DdlError> {
    let mut found: Vec<Found> = Vec::new();
    for name in names {
        let Some(relation) = look_up(all, who, name).await? else { continue };
        if let Some(table) = all.routes.table_by_name(&relation.schema, &relation.name)
            && !found.iter().any(|f| f.oid == relation.oid)
        {
            found.push(Found { oid: relation.oid, table: table.clone() });
        }
    }
    Ok(found)
}

/// A relation of the home node.
pub(super) struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
}

/// The relation that the client means by a name.
pub(super) async fn look_up(
    all: &Everywhere,
    who: &Who,
    name: &Name,
) -> Result<Option<Relation>, DdlError> {
    let schemas = match &name.schema {
        Some(schema) => std::slice::from_ref(schema),
        None => who.path.as_slice(),
    };
    let row = all
        .home
        .client
        .query_opt(
            "SELECT c.oid, n.nspname::text, c.relname::text \
             FROM unnest($1::text[]) WITH ORDINALITY AS p (schema, nth) \
               JOIN pg_namespace n ON n.nspname::text = p.schema \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname::text = $2 \
             ORDER BY p.nth LIMIT 1",
            &[&schemas, &name.name],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let relation =
        Relation { oid: row.try_get(0)?, schema: row.try_get(1)?, name: row.try_get(2)? };
    is_not_ours(&relation.schema)?;
    Ok(Some(relation))
}

/// Locks a table to the end of the transaction. `kind` is that of `pg_class`; `oid`: the table that was looked up
/// by the name.
///
/// # Errors
/// Something else bears the name: its owner has been there. A view would be read with the service role's rights.
pub(super) async fn lock(
    peer: &Peer,
    quoted: &str,
    kind: &str,
    oid: Option<u32>,
) -> Result<(), DdlError> {
    const IS: &str = "SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind::text = $2 \
        AND oid = coalesce($3::oid, oid)";
    peer.run(&format!("LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE")).await?;
    let found = peer.client.query_opt(IS, &[&quoted, &kind, &oid]).await;
    match found.map_err(|e| peer.blame(e))? {
        Some(_) => Ok(()),
        None => Err(DdlError::new("42809", format!("{quoted} is not the table that it is to be"))
            .hint("It was changed directly on a node; make it the same everywhere first.")
            .on_node(&peer.node.name)),
    }
}

/// Refuses who does not own the table.
pub(super) async fn owned(
    all: &Everywhere,
    by: Client<'_>,
    table: u32,
    name: &str,
) -> Result<(), DdlError> {
    const OWNS: &str =
        "SELECT pg_has_role($1::text, c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = $2";
    let owns = all.home.client.query_one(OWNS, &[&by.who.role, &table]).await?;
    match owns.try_get(0)? {
        true => Ok(()),
        false => Err(DdlError::new("42501", format!("must be owner of table {name}"))),
    }
}

/// Refuses what is in a schema of pgshunt's own.
pub(super) fn is_not_ours(schema: &str) -> Result<(), DdlError> {
    if schema != "pgshunt" && leaf_schema(schema).is_none() {
        return Ok(());
    }
    Err(DdlError::unsupported(format!("schema \"{schema}\" belongs to pgshunt"))
        .hint("What is in it follows the distributed tables: change those."))
}

/// Checks that no move is under way for any of the tables.
pub(super) async fn no_moves(all: &Everywhere, found: &[Found]) -> Result<(), DdlError> {
    let mut groups: Vec<GroupId> = found.iter().map(|f| f.table.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        no_move(&all.home, group, "UPDATE").await?;
    }
    Ok(())
}

fn list(found: &[Found]) -> String {
    found.iter().map(Found::quoted).collect::<Vec<_>>().join(", ")
}

async fn on_others(all: &Everywhere, sql: &str) -> Result<(), DdlError> {
    try_join_all(all.others.iter().map(|p| p.run(sql))).await.map_err(DdlError::only_at_home)?;
    Ok(())
}

/// The home node first, so that what all would refuse is told in its words.
pub(super) async fn on_all(all: &Everywhere, sql: &str) -> Result<(), DdlError> {
    all.home.client.batch_execute(sql).await?;
    on_others(all, sql).await
}

pub(super) async fn drop_tables(
    all: Everywhere,
    by: Client<'_>,
    names: &[Name],
    cascade: bool,
) -> Result<Everywhere, DdlError> {
    let found = find(&all, by.who, names).await?;
    no_moves(&all, &found).await?;
    let mut all = all.run_text(by.request, by.who).await?;
    if found.is_empty() {
        all.others.clear();
        return Ok(all);
    }
    let how = if cascade { " CASCADE" } else { "" };
    on_others(&all, &format!("DROP TABLE {}{how}", list(&found))).await?;
    leave_catalog(&all, &found).await?;
    Ok(all)
}

/// Tables that are gone lose their entries, and their groups their shards where they were the last ones.
pub(super) async fn leave_catalog(all: &Everywhere, found: &[Found]) -> Result<(), DdlError> {
    let home = &*all.home.client;
    let ids: Vec<i32> = found.iter().map(|f| f.table.id.0).collect();
    home.execute("DELETE FROM pgshunt.tables WHERE table_id = ANY($1)", &[&ids]).await?;
    let groups: Vec<i32> = found.iter().map(|f| f.table.group.0).collect();
    let rows = home
        .query(
            "SELECT s.shard_id FROM pgshunt.shards s WHERE s.group_id = ANY($1) AND NOT EXISTS (\
               SELECT FROM pgshunt.tables t WHERE t.group_id = s.group_id) ORDER BY 1",
            &[&groups],
        )
        .await?;
    let mut drops = Vec::new();
    for row in rows {
        drops.push(format!("DROP SCHEMA IF EXISTS shard_{}", row.try_get::<_, i32>(0)?));
    }
    if !drops.is_empty() {
        let sql = drops.join("; ");
        try_join_all(all.peers().map(|p| p.run(&sql))).await?;
        home.execute(
            "DELETE FROM pgshunt.colocation_groups g WHERE group_id = ANY($1) AND NOT EXISTS (\
               SELECT FROM pgshunt.tables t WHERE t.group_id = g.group_id)",
            &[&groups],
        )
        .await?;
    }
    raise_epoch(home).await?;
    let schemas: Vec<&str> = found.iter().map(|f| f.table.schema.as_str()).collect();
    try_join_all(all.others.iter().map(|p| drop_if_empty(p, &schemas))).await?;
    Ok(())
}

/// A schema came to the other nodes with its first distributed table, and goes with the last: there it
/// would keep grants that nobody takes back.
async fn drop_if_empty(peer: &Peer, schemas: &[&str]) -> Result<(), DdlError> {
    const EMPTY: &str = "\
        SELECT nspname::text FROM pg_namespace n WHERE nspname::text = ANY($1) AND nspname <> 'public' \
          AND NOT EXISTS (SELECT FROM pg_depend d \
            WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid)";
    for row in peer.client.query(EMPTY, &[&schemas]).await? {
        let name: String = row.try_get(0)?;
        peer.run(&format!("DROP SCHEMA {}", ident(&name))).await?;
    }
    Ok(())
}

pub(super) async fn truncate(
    all: Everywhere,
    by: Client<'_>,
    names: &[Name],
    restart_sequences: bool,
    cascade: bool,
) -> Result<Everywhere, DdlError> {
    let found = find(&all, by.who, names).await?;
    no_moves(&all, &found).await?;
    let tables = list(&found);
    if !found.is_empty() && !by.who.superuser {
        // May the client truncate at all? Asked before anything of it is locked.
        for f in &found {
            may_truncate(&all.home, &by.who.role, f).await?;
        }
        let sql = format!("LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE");
        all.home.run(&sql).await?;
        on_others(&all, &sql).await?;
        try_join_all(all.peers().map(|p| no_truncate_triggers(p, &found))).await?;
    }
    let mut all = all.run_text(by.request, by.who).await?;
    if found.is_empty() {
        all.others.clear();
        return Ok(all);
    }
    let restart = if restart_sequences { " RESTART IDENTITY" } else { "" };
    let how = if cascade { " CASCADE" } else { "" };
    on_others(&all, &format!("TRUNCATE TABLE {tables}{restart}{how}")).await?;
    Ok(all)
}

async fn may_truncate(home: &Peer, role: &str, found: &Found) -> Result<(), DdlError> {
    let may: bool = home
        .client
        .query_one("SELECT has_table_privilege($1, $2::oid, 'TRUNCATE')", &[&role, &found.oid])
        .await?
        .try_get(0)?;
    if may {
        return Ok(());
    }
    Err(DdlError::new("42501", format!("permission denied for table {}", found.table.name)))
}

async fn no_truncate_triggers(peer: &Peer, found: &[Found]) -> Result<(), DdlError> {
    /// `TRIGGER_TYPE_TRUNCATE` of PostgreSQL's pg_trigger.h.
    const TRUNCATE: i16 = 1 << 5;
    for f in found {
        let row = peer
            .client
            .query_opt(
                "SELECT t.tgname::text FROM pg_trigger t, pg_partition_tree(to_regclass($1)) p \
                 WHERE t.tgrelid = p.relid AND NOT t.tgisinternal AND t.tgtype & $2 <> 0 LIMIT 1",
                &[&f.quoted(), &TRUNCATE],
            )
            .await?;
        if let Some(row) = row {
            let name: String = row.try_get(0)?;
            return Err(DdlError::unsupported(format!(
                "table \"{}\" has the trigger \"{name}\" on TRUNCATE, which would run as pgshunt's role",
                f.table.name
            ))
            .hint("Drop the trigger, use DELETE, or truncate as a superuser.")
            .on_node(&peer.node.name));
        }
    }
    Ok(())
}

/// The one distributed table an index or ALTER TABLE statement is about.
pub(super) async fn find_one(
    all: &Everywhere,
    who: &Who,
    name: &Name,
) -> Result<Option<Found>, DdlError> {
    Ok(find(all, who, std::slice::from_ref(name)).await?.pop())
}

async fn indexes(home: &Peer, table: u32) -> Result<Vec<u32>, DdlError> {
    let sql = "SELECT indexrelid FROM pg_index WHERE indrelid = $1";
    let rows = home.client.query(sql, &[&table]).await?;
    Ok(rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?)
}

/// The client makes the index of the parent alone, for which it needs no right in the shards. That tells
/// what is meant and is undone; then each node makes it with those of its leaves. Index expressions are
/// computed as the table's owner, whoever makes the index.
pub(super) async fn create_index(
    all: Everywhere,
    by: Client<'_>,
    table: &Name,
    at: usize,
) -> Result<Everywhere, DdlError> {
    let found = find_one(&all, by.who, table).await?;
    let Some(found) = found else {
        let mut all = all.run_text(by.request, by.who).await?;
        all.others.clear();
        return Ok(all);
    };
    no_moves(&all, std::slice::from_ref(&found)).await?;
    let before = indexes(&all.home, found.oid).await?;
    all.home.run("SAVEPOINT trial").await?;
    let mut all = all.run_text_with(by.request, by.who, (at, "ONLY ")).await?;
    let after = indexes(&all.home, found.oid).await?;
    let Some(made) = after.into_iter().find(|i| !before.contains(i)) else {
        // IF NOT EXISTS.
        all.others.clear();
        return Ok(all);
    };
    let row = all
        .home
        .client
        .query_one(
            "SELECT relname::text, pg_get_indexdef(oid), \
               (SELECT indisunique FROM pg_index WHERE indexrelid = $1) \
             FROM pg_class WHERE oid = $1",
            &[&made],
        )
        .await?;
    let (name, definition, unique): (String, String, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let needs = Needs::of(&all.home.client, by.who, found.oid).await?;
    all.home.run("ROLLBACK TO SAVEPOINT trial; RELEASE SAVEPOINT trial").await?;
    needs.check_elsewhere(&all).await?;
    on_all(&all, &with_leaves(&definition, &name, unique)?).await?;
    name_leaves(&all, &found).await?;
    // The router tells an index of a distributed table from others by its name.
    raise_epoch(&*all.home.client).await?;
    Ok(all)
}

/// A partitioned index's definition is printed for the parent alone; we want the leaves' too.
fn with_leaves(definition: &str, name: &str, unique: bool) -> Result<String, DdlError> {
    let unique = if unique { "UNIQUE " } else { "" };
    let candidates = [name.to_owned(), ident(name)];
    candidates
        .iter()
        .find_map(|name| {
            let head = format!("CREATE {unique}INDEX {name} ON ");
            let rest = definition.strip_prefix(&head)?.strip_prefix("ONLY ")?;
            Some(format!("{head}{rest}"))
        })
        .ok_or_else(|| DdlError::new("XX000", format!("index not understood: {definition}")))
}

pub(super) async fn name_leaves(all: &Everywhere, found: &Found) -> Result<(), DdlError> {
    let (schema, name) = (&found.table.schema, &found.table.name);
    try_join_all(all.peers().map(|p| shape::name_leaf_indexes(p, schema, name))).await?;
    Ok(())
}

pub(super) async fn drop_indexes(
    all: Everywhere,
    by: Client<'_>,
    names: &[Name],
    cascade: bool,
    concurrently: bool,
) -> Result<Everywhere, DdlError> {
    let mut found = Vec::new();
    let mut tables = Vec::new();
    for name in names {
        let Some(index) = look_up(&all, by.who, name).await? else { continue };
        let row = all
            .home
            .client
            .query_opt(
                "SELECT t.oid, n.nspname::text, t.relname::text FROM pg_index i \
                   JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace \
                 WHERE i.indexrelid = $1",
                &[&index.oid],
            )
            .await?;
        let Some(row) = row else { continue };
        let (schema, table): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        if let Some(table) = all.routes.table_by_name(&schema, &table) {
            found.push(format!("{}.{}", ident(&index.schema), ident(&index.name)));
            tables.push(Found { oid: row.try_get(0)?, table: table.clone() });
        }
    }
    no_moves(&all, &tables).await?;
    if concurrently {
        return Err(DdlError::unsupported(
            "an index of a distributed table cannot be dropped concurrently",
        )
        .hint(
            "Leave CONCURRENTLY away. If the home node's own index is meant, write its schema.",
        ));
    }
    let mut all = all.run_text(by.request, by.who).await?;
    if found.is_empty() {
        all.others.clear();
        return Ok(all);
    }
    let how = if cascade { " CASCADE" } else { "" };
    on_others(&all, &format!("DROP INDEX {}{how}", found.join(", "))).await?;
    raise_epoch(&*all.home.client).await?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_definition_loses_its_only() {
        let with = |d: &str, n, u| with_leaves(d, n, u).unwrap();
        assert_eq!(
            with("CREATE INDEX i ON ONLY public.t USING btree (a)", "i", false),
            "CREATE INDEX i ON public.t USING btree (a)"
        );
        assert_eq!(
            with(
                "CREATE UNIQUE INDEX \"x ON ONLY\" ON ONLY public.t USING btree (a)",
                "x ON ONLY",
                true
            ),
            "CREATE UNIQUE INDEX \"x ON ONLY\" ON public.t USING btree (a)"
        );
        assert!(with_leaves("CREATE INDEX i ON public.t USING btree (a)", "i", false).is_err());
    }
}
