//! DDL on distributed tables that are there: DROP, TRUNCATE, indexes, ALTER TABLE.

use std::sync::Arc;

use futures_util::future::try_join_all;
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::Client;

use super::statement::{Evaluates, Name};
use super::{
    DdlError, DdlRequest, Everywhere, Peer, Shape, Who, as_client, as_service, no_move, path_of,
    run_as_client, shape,
};
use crate::catalog::raise_epoch;
use crate::topology::{DistributedTable, GroupId};

/// A distributed table the client named, as the home node found it.
struct Found {
    oid: u32,
    table: Arc<DistributedTable>,
}

impl Found {
    fn quoted(&self) -> String {
        format!("{}.{}", ident(&self.table.schema), ident(&self.table.name))
    }
}

/// Looks the names up as the client, and keeps moves away from what is found. Names that are not
/// distributed tables are left to the home node to judge.
async fn find(all: &Everywhere, names: &[Name]) -> Result<Vec<Found>, DdlError> {
    let mut found: Vec<Found> = Vec::new();
    for name in names {
        let row = all
            .home
            .client
            .query_opt(
                "SELECT c.oid, n.nspname::text, c.relname::text \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
                   ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
                 WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)",
                &[&name.quoted()],
            )
            .await?;
        let Some(row) = row else { continue };
        let (oid, schema, name): (u32, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if let Some(table) = all.routes.table_by_name(&schema, &name)
            && !found.iter().any(|f| f.oid == oid)
        {
            found.push(Found { oid, table: table.clone() });
        }
    }
    Ok(found)
}

/// Checks that no move is under way for any of the tables. Needs the service role.
async fn no_moves(all: &Everywhere, found: &[Found]) -> Result<(), DdlError> {
    let mut groups: Vec<GroupId> = found.iter().map(|f| f.table.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        no_move(&all.home, group).await?;
    }
    Ok(())
}

/// Finds the tables as the client would, checks as the service role, and is the client again.
async fn find_as_client(
    all: &Everywhere,
    request: &DdlRequest,
    names: &[Name],
) -> Result<Vec<Found>, DdlError> {
    as_client(&all.home, request).await?;
    let found = find(all, names).await?;
    as_service(&all.home).await?;
    no_moves(all, &found).await?;
    as_client(&all.home, request).await?;
    Ok(found)
}

fn list(found: &[Found]) -> String {
    found.iter().map(Found::quoted).collect::<Vec<_>>().join(", ")
}

async fn on_others(all: &Everywhere, sql: &str) -> Result<(), DdlError> {
    try_join_all(all.others.iter().map(|p| p.run(sql))).await.map_err(DdlError::only_at_home)?;
    Ok(())
}

pub(super) async fn drop_tables(
    all: &mut Everywhere,
    request: &DdlRequest,
    names: &[Name],
    cascade: bool,
) -> Result<(), DdlError> {
    let found = find_as_client(all, request, names).await?;
    run_as_client(&all.home, request).await?;
    as_service(&all.home).await?;
    if found.is_empty() {
        all.others.clear();
        return Ok(());
    }
    let how = if cascade { " CASCADE" } else { "" };
    on_others(all, &format!("DROP TABLE {}{how}", list(&found))).await?;

    let home = &all.home.client;
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
    on_others(all, &drop_if_empty(&schemas)).await?;
    Ok(())
}

/// A schema came to the other nodes with its first distributed table, and goes with the last: there it
/// would keep grants that nobody takes back.
fn drop_if_empty(schemas: &[&str]) -> String {
    let names = schemas.iter().map(|s| literal(s)).collect::<Vec<_>>().join(", ");
    format!(
        "DO $do$ DECLARE s name; BEGIN FOR s IN SELECT nspname FROM pg_namespace n \
           WHERE nspname IN ({names}) AND nspname <> 'public' AND NOT EXISTS (SELECT FROM pg_depend d \
             WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid) \
         LOOP EXECUTE format('DROP SCHEMA %I', s); END LOOP; END $do$"
    )
}

pub(super) async fn truncate(
    all: &mut Everywhere,
    request: &DdlRequest,
    who: &Who,
    names: &[Name],
    restart_sequences: bool,
    cascade: bool,
) -> Result<(), DdlError> {
    let found = find_as_client(all, request, names).await?;
    as_service(&all.home).await?;
    let tables = list(&found);
    if found.is_empty() {
        all.others.clear();
    } else if !who.superuser {
        // May the client truncate at all? Asked before anything of it is locked.
        for f in &found {
            may_truncate(&all.home.client, &who.role, f).await?;
        }
        let sql = format!("LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE");
        all.home.run(&sql).await?;
        on_others(all, &sql).await?;
        try_join_all(all.peers().map(|p| no_truncate_triggers(p, &found))).await?;
    }
    as_client(&all.home, request).await?;
    run_as_client(&all.home, request).await?;
    as_service(&all.home).await?;
    if !found.is_empty() {
        let restart = if restart_sequences { " RESTART IDENTITY" } else { "" };
        let how = if cascade { " CASCADE" } else { "" };
        on_others(all, &format!("TRUNCATE TABLE {tables}{restart}{how}")).await?;
    }
    Ok(())
}

async fn may_truncate(home: &Client, role: &str, found: &Found) -> Result<(), DdlError> {
    let may: bool = home
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
async fn find_one(
    all: &Everywhere,
    request: &DdlRequest,
    name: &Name,
) -> Result<Option<Found>, DdlError> {
    Ok(find_as_client(all, request, std::slice::from_ref(name)).await?.pop())
}

/// PostgreSQL wants whoever makes an index on the parent to have CREATE on the schemas of the
/// leaves. Gives the client that right for the rest of this transaction; the statements returned
/// take it away again before anybody else could see it.
async fn open_shards(home: &Peer, who: &Who, parent: u32) -> Result<String, DdlError> {
    let rows = home
        .client
        .query(
            "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class c \
             JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = $1 \
               AND NOT has_schema_privilege($2::text, relnamespace, 'CREATE')",
            &[&parent, &who.role],
        )
        .await?;
    let schemas: Vec<String> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    if schemas.is_empty() {
        return Ok(String::new());
    }
    let (schemas, role) = (schemas.join(", "), ident(&who.role));
    home.run(&format!("GRANT CREATE ON SCHEMA {schemas} TO {role}")).await?;
    Ok(format!("REVOKE CREATE ON SCHEMA {schemas} FROM {role}"))
}

async fn indexes(home: &Client, table: u32) -> Result<Vec<u32>, DdlError> {
    let rows = home.query("SELECT indexrelid FROM pg_index WHERE indrelid = $1", &[&table]).await?;
    Ok(rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?)
}

pub(super) async fn create_index(
    all: &mut Everywhere,
    request: &DdlRequest,
    who: &Who,
    table: &Name,
) -> Result<(), DdlError> {
    let found = find_one(all, request, table).await?;
    let Some(found) = found else {
        run_as_client(&all.home, request).await?;
        all.others.clear();
        return Ok(());
    };
    as_service(&all.home).await?;
    let before = indexes(&all.home.client, found.oid).await?;
    let shards = open_shards(&all.home, who, found.oid).await?;
    as_client(&all.home, request).await?;
    run_as_client(&all.home, request).await?;
    as_service(&all.home).await?;
    all.home.run(&shards).await?;
    let after = indexes(&all.home.client, found.oid).await?;
    let Some(made) = after.into_iter().find(|i| !before.contains(i)) else {
        // IF NOT EXISTS.
        all.others.clear();
        return Ok(());
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
    on_others(all, &with_leaves(&definition, &name, unique)?).await?;
    name_leaves(all, &found).await?;
    Ok(())
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

async fn name_leaves(all: &Everywhere, found: &Found) -> Result<(), DdlError> {
    let sql = shape::name_leaf_indexes(&shape::regclass(&found.table.schema, &found.table.name));
    try_join_all(all.peers().map(|p| p.run(&sql))).await?;
    Ok(())
}

pub(super) async fn drop_indexes(
    all: &mut Everywhere,
    request: &DdlRequest,
    names: &[Name],
    cascade: bool,
) -> Result<(), DdlError> {
    as_client(&all.home, request).await?;
    let mut found = Vec::new();
    let mut tables = Vec::new();
    for name in names {
        let row = all
            .home
            .client
            .query_opt(
                "SELECT xn.nspname::text, x.relname::text, t.oid, tn.nspname::text, t.relname::text \
                 FROM pg_catalog.pg_index i \
                   JOIN pg_catalog.pg_class x ON x.oid OPERATOR(pg_catalog.=) i.indexrelid \
                   JOIN pg_catalog.pg_namespace xn ON xn.oid OPERATOR(pg_catalog.=) x.relnamespace \
                   JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) i.indrelid \
                   JOIN pg_catalog.pg_namespace tn ON tn.oid OPERATOR(pg_catalog.=) t.relnamespace \
                 WHERE i.indexrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)",
                &[&name.quoted()],
            )
            .await?;
        let Some(row) = row else { continue };
        let (schema, table): (String, String) = (row.try_get(3)?, row.try_get(4)?);
        if let Some(table) = all.routes.table_by_name(&schema, &table) {
            let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            found.push(format!("{}.{}", ident(&schema), ident(&name)));
            tables.push(Found { oid: row.try_get(2)?, table: table.clone() });
        }
    }
    as_service(&all.home).await?;
    no_moves(all, &tables).await?;
    as_client(&all.home, request).await?;
    run_as_client(&all.home, request).await?;
    as_service(&all.home).await?;
    if found.is_empty() {
        all.others.clear();
        return Ok(());
    }
    let how = if cascade { " CASCADE" } else { "" };
    on_others(all, &format!("DROP INDEX {}{how}", found.join(", "))).await?;
    Ok(())
}

pub(super) async fn alter_table(
    all: &mut Everywhere,
    request: &DdlRequest,
    who: &Who,
    name: &Name,
    evaluates: &Evaluates,
) -> Result<(), DdlError> {
    let found = find_one(all, request, name).await?;
    let Some(found) = found else {
        // IF EXISTS, or an error; a local table does not come here.
        run_as_client(&all.home, request).await?;
        all.others.clear();
        return Ok(());
    };
    as_service(&all.home).await?;
    let shards = open_shards(&all.home, who, found.oid).await?;
    as_client(&all.home, request).await?;
    if !who.superuser {
        only_built_in(&all.home.client, evaluates).await?;
    }
    run_as_client(&all.home, request).await?;
    let path: Vec<String> = all
        .home
        .client
        .query_one("SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]", &[])
        .await?
        .try_get(0)?;
    as_service(&all.home).await?;
    all.home.run(&shards).await?;

    // The same text elsewhere: an unqualified name finds the same table first.
    let first = std::iter::once(found.table.schema.as_str());
    let path = path_of(first.chain(path.iter().map(String::as_str)));
    try_join_all(all.others.iter().map(|peer| async {
        peer.set("search_path", &path).await?;
        for (_, sql) in request.settings.iter().filter(|(n, _)| reads_constants(n)) {
            peer.run(sql).await?;
        }
        let done = peer.client.execute(request.sql.as_str(), &[]).await;
        done.map_err(|e| peer.blame(e).only_at_home())?;
        as_service(peer).await
    }))
    .await?;
    name_leaves(all, &found).await?;

    let shape = Shape::read(&all.home.client, found.oid).await?;
    shape.key_types()?;
    try_join_all(all.others.iter().map(|peer| same_shape(peer, &shape))).await?;
    all.home
        .client
        .execute(
            "UPDATE pgshunt.tables SET key_columns = $2, column_names = $3, column_types = $4 \
             WHERE table_id = $1",
            &[&found.table.id.0, &shape.key_columns(), &shape.column_names, &shape.column_types],
        )
        .await?;
    raise_epoch(&all.home.client).await?;
    Ok(())
}

/// Whether constants in the client's text are read differently under this setting.
fn reads_constants(setting: &str) -> bool {
    ["datestyle", "intervalstyle", "timezone"].iter().any(|s| setting.eq_ignore_ascii_case(s))
}

/// For a role that is no superuser: see [`Evaluates`].
async fn only_built_in(client: &Client, evaluates: &Evaluates) -> Result<(), DdlError> {
    if evaluates.expression {
        return Err(DdlError::unsupported(
            "a column added to a distributed table can only have a constant as its default",
        )
        .hint("Add the column without a default, then ALTER COLUMN ... SET DEFAULT."));
    }
    for ty in &evaluates.types {
        let row = client
            .query_opt(
                "SELECT FROM pg_catalog.pg_type t \
                 WHERE t.oid OPERATOR(pg_catalog.=) pg_catalog.to_regtype($1) \
                   AND t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace",
                &[&ty.quoted()],
            )
            .await?;
        if row.is_none() {
            return Err(DdlError::unsupported(format!(
                "a column of type {} cannot be added to a distributed table",
                ty.name
            ))
            .hint("Built-in types can be added; other types are not on all nodes."));
        }
    }
    Ok(())
}

/// A last look: did the same text come to the same on the other node?
async fn same_shape(peer: &Peer, home: &Shape) -> Result<(), DdlError> {
    let oid: u32 = peer
        .client
        .query_one("SELECT to_regclass($1)::oid", &[&home.quoted()])
        .await
        .and_then(|r| r.try_get(0))
        .map_err(|e| peer.blame(e))?;
    let here = Shape::read(&peer.client, oid).await?;
    if here.same_columns(home) {
        return Ok(());
    }
    Err(DdlError::new(
        "55000",
        format!("table \"{}\" would not be the same on all nodes", home.name),
    )
    .hint("It was changed directly on a node; make it the same everywhere first.")
    .on_node(&peer.node.name))
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
