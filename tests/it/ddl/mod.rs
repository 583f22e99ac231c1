//! DDL on distributed tables and roles: on all nodes or on none, as the client's role.

use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::support::*;
use pgshunt::backend::control::Connector;
use pgshunt::catalog::Store;
use pgshunt::catalog::ddl::{self, DdlError, DdlRequest, Outcome};
use pgshunt::catalog::nodes;
use tokio_postgres::Client;

mod blocks;
mod crash;
mod effects;
mod maintenance;
mod names;
mod outcomes;
mod recovery;
mod rights;
mod roles;
mod shared;
mod texts;

/// Some nodes, their catalog, and a role `alice` that may create tables at home.
struct Cluster {
    nodes: LocalCluster,
    store: Arc<Store>,
    clients: Vec<Client>,
}

impl Cluster {
    async fn start(n: usize) -> Self {
        let nodes = LocalCluster::start(n).unwrap();
        let connector = Arc::new(Connector::new(&nodes.config));
        let store = Arc::new(Store::open(connector, &nodes.config.cluster.nodes).await.unwrap());
        let mut clients = Vec::new();
        for node in &nodes.nodes {
            let client = connect(node.port()).await;
            // Else "$user" would be the catalog's schema.
            client.batch_execute("SET search_path = public").await.unwrap();
            clients.push(client);
        }
        clients[0]
            .batch_execute(
                "CREATE ROLE alice LOGIN PASSWORD 'secret'; GRANT CREATE ON SCHEMA public TO alice",
            )
            .await
            .unwrap();
        Self { nodes, store, clients }
    }

    /// Whether the servers are of this major version or a later one.
    async fn is_since(&self, major: i32) -> bool {
        let sql = "SELECT current_setting('server_version_num')::int";
        value::<i32>(&self.clients[0], sql).await >= major * 10_000
    }

    async fn run_as(&self, role: &str, sql: &str) -> Result<Outcome, DdlError> {
        let settings = vec![setting("pgshunt.shard_count", "4")];
        let request = DdlRequest::new(role, settings, sql);
        ddl::execute(&self.store, &request).await
    }

    async fn alice(&self, sql: &str) -> &'static str {
        match self.run_as("alice", sql).await {
            Ok(outcome) => outcome.tag,
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }
    async fn refused(&self, sql: &str) -> DdlError {
        self.run_as("alice", sql).await.map(|o| panic!("{sql}: {o:?}")).unwrap_err()
    }
    /// What one query says on every node.
    async fn on_each<T>(&self, sql: &str) -> Vec<T>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let mut all = Vec::new();
        for client in &self.clients {
            all.push(value(client, sql).await);
        }
        all
    }

    /// Nothing of a table `t`, its shards or a half-done transaction is anywhere.
    async fn nothing_left(&self) {
        let left: Vec<String> = self
            .on_each(
                "SELECT concat_ws(' ', to_regclass('public.t')::text, to_regclass('t_id_seq')::text, \
                 (SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname LIKE 'shard%'), \
                 (SELECT string_agg(gid, ' ') FROM pg_prepared_xacts))",
            )
            .await;
        assert!(left.iter().all(String::is_empty), "{left:?}");
        let rows: i64 = value(
            &self.clients[0],
            "SELECT (SELECT count(*) FROM pgshunt.tables) + (SELECT count(*) FROM pgshunt.shards) \
             + (SELECT count(*) FROM pgshunt.placements) \
             + (SELECT count(*) FROM pgshunt.colocation_groups) \
             + (SELECT count(*) FROM pgshunt.decisions)",
        )
        .await;
        assert_eq!(rows, 0);
        assert_eq!(self.store.routes().load().tables().count(), 0);
    }
}

fn setting(name: &str, value: &str) -> (String, String) {
    (name.into(), format!("SET {name} = '{value}'"))
}

const LEAVES: &str = "SELECT coalesce(string_agg(p.relid::text || ' ' || \
    pg_get_expr(c.relpartbound, c.oid) || ' ' || pg_get_userbyid(c.relowner), ', ' ORDER BY p.relid::text), '') \
    FROM pg_partition_tree('public.t') p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf \
    AND p.relid <> 'public.t'::regclass";

#[tokio::test]
async fn a_table_is_made_on_all_nodes_and_spread() {
    let c = Cluster::start(3).await;
    let tag =
        c.alice("CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT 'x') PARTITION BY HASH (id)");
    assert_eq!(tag.await, "CREATE TABLE");
    let leaves: Vec<String> = c.on_each(LEAVES).await;
    let bound = |r| format!("FOR VALUES WITH (modulus 4, remainder {r}) alice");
    assert_eq!(leaves[0], format!("shard_1.t {}, shard_4.t {}", bound(0), bound(3)));
    assert_eq!(leaves[1], format!("shard_2.t {}", bound(1)));
    assert_eq!(leaves[2], format!("shard_3.t {}", bound(2)));
    // Every row has exactly one node that takes it.
    for id in 1..=50 {
        let mut taken = 0;
        for client in &c.clients {
            let sql = format!("INSERT INTO t (id) VALUES ({id})");
            taken += usize::from(client.batch_execute(&sql).await.is_ok());
        }
        assert_eq!(taken, 1, "row {id}");
    }
    let routes = c.store.routes().load();
    let table = routes.table_by_name("public", "t").unwrap();
    assert_eq!(table.key_columns, ["id"]);
    let columns: Vec<_> = table.columns.iter().map(|c| (c.name.as_str(), c.type_oid)).collect();
    assert_eq!(columns, [("id", 23), ("v", 25)]);
    for shard in &routes.group(table.group).unwrap().shards {
        let node = shard.node.0 as usize - 1;
        let sql = format!("SELECT to_regclass('shard_{}.t') IS NOT NULL", shard.id);
        assert!(value::<bool>(&c.clients[node], &sql).await, "{shard:?}");
    }
}

#[tokio::test]
async fn tables_of_one_kind_share_a_group_unless_their_leaves_would_collide() {
    let c = Cluster::start(2).await;
    c.clients[0].batch_execute("CREATE SCHEMA app AUTHORIZATION alice").await.unwrap();
    c.alice("CREATE TABLE t (id int, a int) PARTITION BY HASH (id)").await;
    c.alice("CREATE TABLE u (id int) PARTITION BY HASH (id)").await;
    c.alice("CREATE TABLE app.t (id int) PARTITION BY HASH (id)").await;
    c.alice("CREATE TABLE k (a text, b uuid) PARTITION BY HASH (b, a)").await;
    let routes = c.store.routes().load();
    let group = |s: &str, n: &str| routes.table_by_name(s, n).unwrap().group;
    assert_eq!(group("public", "t"), group("public", "u"));
    assert_ne!(group("public", "t"), group("app", "t"));
    assert_eq!(routes.table_by_name("public", "k").unwrap().key_columns, ["b", "a"]);
    let owner = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'app'";
    assert_eq!(c.on_each::<String>(owner).await, ["alice", "alice"]);
}

#[tokio::test]
async fn every_part_of_a_definition_reaches_all_nodes() {
    let c = Cluster::start(2).await;
    c.clients[0]
        .batch_execute(
            "CREATE ROLE readers; \
             ALTER DEFAULT PRIVILEGES FOR ROLE alice GRANT SELECT ON TABLES TO readers",
        )
        .await
        .unwrap();
    c.alice(
        "CREATE TABLE t (id bigint NOT NULL, d date DEFAULT '2020-02-01', at timestamptz DEFAULT now(), \
         \"We ird\" varchar(7) COLLATE \"C\" CHECK (\"We ird\" <> 'x''y'), up text GENERATED ALWAYS AS \
         (upper(\"We ird\")) STORED, big text STORAGE EXTERNAL, CONSTRAINT pk PRIMARY KEY (id, d), \
         UNIQUE (id, big)) PARTITION BY HASH (id)"
            .replace(" STORAGE EXTERNAL", "")
            .as_str(),
    )
    .await;
    let definition = "SELECT (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), \
        attnotnull, attcollation::regcollation, attgenerated, pg_get_expr(adbin, adrelid)), '; ' ORDER BY attnum) \
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
        WHERE attrelid = 't'::regclass AND attnum > 0) || \
        (SELECT string_agg(conname || pg_get_constraintdef(oid), '; ' ORDER BY conname) \
        FROM pg_constraint WHERE conrelid = 't'::regclass) || pg_get_partkeydef('t'::regclass) || \
        (SELECT string_agg(relname || relacl::text || pg_get_userbyid(relowner), ' ' ORDER BY relname) \
         FROM pg_class WHERE oid = 't'::regclass)";
    let each: Vec<String> = c.on_each(definition).await;
    assert_eq!(each[0], each[1]);
    assert!(each[0].contains("readers=r"), "{}", each[0]);
    // The leaves say the same: their grants, and their indexes' names.
    let agree = "SELECT bool_and(l.relacl = p.relacl AND l.relowner = p.relowner) FROM pg_class p, \
        pg_inherits i JOIN pg_class l ON l.oid = i.inhrelid WHERE p.oid = 't'::regclass AND i.inhparent = p.oid";
    assert_eq!(c.on_each::<bool>(agree).await, [true, true]);
    let e = c.clients[1]
        .batch_execute(
            "INSERT INTO t (id) SELECT x FROM generate_series(1, 9) x, generate_series(1, 2)",
        )
        .await
        .unwrap_err();
    let e = e.as_db_error().unwrap();
    assert!(e.constraint() == Some("pk") || e.code().code() == "23514", "{e:?}");
    let names = "SELECT string_agg(DISTINCT indexrelid::regclass::text, ' ') FROM pg_index \
        WHERE indrelid = (SELECT min(inhrelid) FROM pg_inherits WHERE inhparent = 't'::regclass)";
    for (i, names) in c.on_each::<String>(names).await.iter().enumerate() {
        assert!(names.contains(".pk") && names.contains(".t_id_big_key"), "node {i}: {names}");
    }
}

#[tokio::test]
async fn sequences_give_out_disjoint_values() {
    let c = Cluster::start(3).await;
    c.alice(
        "CREATE TABLE t (id serial, k int, g bigint GENERATED BY DEFAULT AS IDENTITY (START 100 INCREMENT 5)) \
         PARTITION BY HASH (k)",
    )
    .await;
    let mut seen = std::collections::BTreeSet::new();
    for client in &c.clients {
        let rows = client
            .query(
                "SELECT nextval('t_id_seq'), nextval(pg_get_serial_sequence('t', 'g')) + 1000000 \
                 FROM generate_series(1, 100)",
                &[],
            )
            .await
            .unwrap();
        for row in rows {
            for i in 0..2 {
                assert!(seen.insert(row.get::<_, i64>(i)), "{} twice", row.get::<_, i64>(i));
            }
        }
    }
    assert_eq!(seen.len(), 600);
    assert!(seen.contains(&1) && seen.contains(&1_000_100), "the home node begins as declared");
    // The default works on every node, and the owner may use it.
    for (node, client) in c.nodes.nodes.iter().zip(&c.clients) {
        let ok: bool = value(
            client,
            "SELECT has_sequence_privilege('alice', 't_id_seq', 'USAGE') AND \
             pg_get_serial_sequence('t', 'id') = 'public.t_id_seq'",
        )
        .await;
        assert!(ok, "{}", node.name());
    }
}

#[tokio::test]
async fn what_cannot_be_distributed_is_refused_and_leaves_nothing() {
    let c = Cluster::start(2).await;
    c.clients[0]
        .batch_execute(
            "CREATE COLLATION ci (provider = icu, locale = 'und', deterministic = false); \
             CREATE SEQUENCE s; GRANT ALL ON SEQUENCE s TO alice; CREATE DOMAIN d AS int; \
             CREATE ROLE bob; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        )
        .await
        .unwrap();
    for (sql, sqlstate, says) in [
        ("CREATE TABLE t (id interval) PARTITION BY HASH (id)", "0A000", "type interval"),
        ("CREATE TABLE t (id d) PARTITION BY HASH (id)", "0A000", "type public.d"),
        ("CREATE TABLE t (id int) PARTITION BY HASH ((id + 1))", "0A000", "expressions"),
        (
            "CREATE TABLE t (id text COLLATE ci) PARTITION BY HASH (id)",
            "0A000",
            "non-deterministic",
        ),
        (
            "CREATE TABLE t (id int, a int DEFAULT nextval('s')) PARTITION BY HASH (id)",
            "0A000",
            "sequence",
        ),
        (
            "CREATE TABLE t (id int, a int GENERATED ALWAYS AS IDENTITY (CYCLE)) PARTITION BY HASH (id)",
            "0A000",
            "CYCLE",
        ),
        // PostgreSQL's own words.
        ("CREATE TABLE t (id int, a int PRIMARY KEY) PARTITION BY HASH (id)", "0A000", "partition"),
        ("CREATE TABLE t (id int) PARTITION BY HASH (nope)", "42703", "nope"),
        ("CREATE TABLE t (id nope) PARTITION BY HASH (id)", "42704", "nope"),
        ("CREATE TABLE nope.t (id int) PARTITION BY HASH (id)", "3F000", "nope"),
    ] {
        let e = c.refused(sql).await;
        assert_eq!(e.sqlstate, sqlstate, "{sql}: {e:?}");
        assert!(e.message.contains(says), "{sql}: {e:?}");
    }
    let e = c.run_as("bob", "CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap_err();
    assert_eq!(
        (e.sqlstate.as_str(), e.message.as_str()),
        ("42501", "permission denied for schema public")
    );
    let e = c.refused("CREATE TABLE t (id int) PARTITION BY HASH (nope)").await;
    assert_eq!(e.position, Some(44), "points into the client's text");
    let request = DdlRequest::new(
        "alice",
        vec![setting("pgshunt.shard_count", "many")],
        "CREATE TABLE t (id int) PARTITION BY HASH (id)",
    );
    assert_eq!(ddl::execute(&c.store, &request).await.unwrap_err().sqlstate, "22023");
    c.nothing_left().await;
}

#[tokio::test]
async fn a_node_that_cannot_follow_undoes_it_everywhere() {
    let mut c = Cluster::start(3).await;
    c.clients[2].batch_execute("CREATE TABLE t (in_the_way int)").await.unwrap();
    let e = c.refused("CREATE TABLE t (id serial) PARTITION BY HASH (id)").await;
    assert_eq!(e.sqlstate, "42P07");
    assert!(e.detail.as_deref().unwrap_or_default().contains("\"node3\""), "{e:?}");
    c.clients[2].batch_execute("DROP TABLE t").await.unwrap();
    c.nothing_left().await;
    c.nodes.nodes[1].kill().unwrap();
    let e = c.refused("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    assert_eq!(e.sqlstate, "08001");
    c.nodes.nodes[1].restart().unwrap();
    c.clients[1] = connect(c.nodes.nodes[1].port()).await;
    c.nothing_left().await;
}

#[tokio::test]
async fn if_not_exists_and_if_exists_say_what_postgres_says() {
    let c = Cluster::start(2).await;
    let create = "CREATE TABLE IF NOT EXISTS t (id int) PARTITION BY HASH (id)";
    assert_eq!(c.run_as("alice", create).await.unwrap().notices, []);
    let again = c.run_as("alice", create).await.unwrap();
    assert_eq!(again.notices.len(), 1);
    assert_eq!(again.notices[0].message, "relation \"t\" already exists, skipping");
    assert_eq!(c.refused("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.sqlstate, "42P07");
    let gone = c.run_as("alice", "DROP TABLE IF EXISTS nope, t").await.unwrap();
    assert_eq!(gone.notices[0].message, "table \"nope\" does not exist, skipping");
    c.nothing_left().await;
    assert_eq!(c.refused("DROP TABLE t").await.sqlstate, "42P01");
    let altered = c.run_as("alice", "ALTER TABLE IF EXISTS t ADD a int").await.unwrap();
    assert_eq!(altered.notices[0].message, "relation \"t\" does not exist, skipping");
}

#[tokio::test]
async fn dropping_leaves_nothing_and_asks_for_the_owner() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id serial, v int) PARTITION BY HASH (id)").await;
    c.alice("CREATE TABLE u (id int) PARTITION BY HASH (id)").await;
    c.clients[0]
        .batch_execute(
            "CREATE TABLE local (a int); ALTER TABLE local OWNER TO alice; \
                        CREATE ROLE bob; CREATE VIEW w AS SELECT * FROM t",
        )
        .await
        .unwrap();
    let e = c.run_as("bob", "DROP TABLE t").await.unwrap_err();
    assert_eq!((e.sqlstate.as_str(), e.message.as_str()), ("42501", "must be owner of table t"));
    assert_eq!(c.refused("DROP TABLE t").await.sqlstate, "2BP01", "the view depends on it");
    assert_eq!(c.alice("DROP TABLE t, local CASCADE").await, "DROP TABLE");
    let shards: i64 = value(&c.clients[0], "SELECT count(*) FROM pgshunt.shards").await;
    assert_eq!(shards, 4, "the group lives as long as it has a table");
    c.alice("DROP TABLE u").await;
    c.nothing_left().await;
}

#[tokio::test]
async fn indexes_reach_all_nodes_under_one_name() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id int, a int, b text) PARTITION BY HASH (id)").await;
    // A name that is taken on one node only: PostgreSQL would choose another there.
    c.clients[1].batch_execute("CREATE SEQUENCE t_a_idx").await.unwrap();
    let e = c.refused("CREATE INDEX ON t (a)").await;
    assert!(
        e.sqlstate == "42P07" && e.detail.unwrap_or_default().contains("node2"),
        "{}",
        e.message
    );
    c.clients[1].batch_execute("DROP SEQUENCE t_a_idx").await.unwrap();
    assert_eq!(c.alice("CREATE INDEX ON t (a)").await, "CREATE INDEX");
    c.alice("CREATE UNIQUE INDEX \"U 1\" ON public.t (b, id) WHERE a > 0").await;
    let e = c.refused("CREATE UNIQUE INDEX ON t (a)").await;
    assert!(e.sqlstate == "0A000" && e.message.contains("partition"), "{e:?}");
    let names = "SELECT string_agg(x.indexrelid::regclass::text || x.indisvalid, ' ' ORDER BY 1) \
        FROM pg_index x WHERE x.indrelid = 't'::regclass";
    assert_eq!(c.on_each::<String>(names).await, vec!["t_a_idxtrue \"U 1\"true"; 2]);
    let leaf = "SELECT bool_and(c.relname = ANY (ARRAY['U 1', 't_a_idx'])) FROM pg_index x \
        JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_inherits i ON i.inhrelid = x.indrelid \
        WHERE i.inhparent = 't'::regclass";
    assert_eq!(c.on_each::<bool>(leaf).await, [true, true]);
    let skipped = c.run_as("alice", "CREATE INDEX IF NOT EXISTS t_a_idx ON t (a)").await.unwrap();
    assert_eq!(skipped.notices[0].message, "relation \"t_a_idx\" already exists, skipping");
    assert_eq!(c.alice("DROP INDEX t_a_idx, \"U 1\"").await, "DROP INDEX");
    let count =
        "SELECT count(*) FROM pg_index x, pg_partition_tree('t') p WHERE x.indrelid = p.relid";
    assert_eq!(c.on_each::<i64>(count).await, [0, 0]);
    let lent = "SELECT count(*) FROM pg_namespace, aclexplode(nspacl) WHERE nspname LIKE 'shard%' \
        AND privilege_type = 'CREATE' AND grantee <> nspowner";
    assert_eq!(c.on_each::<i64>(lent).await, [0, 0], "nobody keeps a right to a shard's schema");
}

#[tokio::test]
async fn altering_changes_all_nodes_and_the_routing_table() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id int, a int) PARTITION BY HASH (id)").await;
    for client in &c.clients {
        // Into whichever leaves are here.
        for id in 1..20 {
            let _ = client.batch_execute(&format!("INSERT INTO t VALUES ({id}, 1)")).await;
        }
    }
    c.alice("ALTER TABLE t ADD COLUMN b text NOT NULL DEFAULT 'x', DROP COLUMN a").await;
    c.alice("ALTER TABLE t RENAME COLUMN b TO c").await;
    c.alice("ALTER TABLE t RENAME id TO tenant").await;
    c.alice("ALTER TABLE t ALTER c SET DEFAULT upper('y'), ALTER c DROP NOT NULL").await;
    c.alice("ALTER TABLE t ADD PRIMARY KEY (tenant)").await;
    let each: Vec<String> = c
        .on_each(
            "SELECT (SELECT string_agg(DISTINCT c, '') FROM t) || (SELECT string_agg(attname || attnotnull, ' ' \
             ORDER BY attnum) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped) \
             || (SELECT conname FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'p')",
        )
        .await;
    assert_eq!(each, vec!["xtenanttrue cfalset_pkey"; 2]);
    let routes = c.store.routes().load();
    let table = routes.table_by_name("public", "t").unwrap();
    assert_eq!(table.key_columns, ["tenant"]);
    assert_eq!(table.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["tenant", "c"]);
    // The key stays, in PostgreSQL's own words.
    let e = c.refused("ALTER TABLE t DROP COLUMN tenant").await;
    assert!(e.message.contains("partition key"), "{e:?}");
    assert_eq!(c.store.routes().load().epoch, routes.epoch);
}

#[tokio::test]
async fn a_clients_code_never_runs_as_pgshunts_role() {
    let c = Cluster::start(2).await;
    c.clients[0]
        .batch_execute(
            "CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
               SET LOCAL ROLE NONE; CREATE TABLE public.broken_out (); RETURN 1; END $$; \
             CREATE FUNCTION evil_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               PERFORM public.evil(); RETURN NULL; END $$; \
             CREATE DOMAIN evil_domain AS int CHECK (public.evil() = 1)",
        )
        .await
        .unwrap();
    c.alice("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    for sql in [
        "ALTER TABLE t ADD a int DEFAULT evil()",
        "ALTER TABLE t ADD a evil_domain",
        "ALTER TABLE t ADD a int DEFAULT 1::evil_domain",
    ] {
        let e = c.refused(sql).await;
        assert!(["0A000", "42501"].contains(&e.sqlstate.as_str()), "{sql}: {e:?}");
    }
    c.clients[1]
        .batch_execute(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
             CREATE TRIGGER tr BEFORE TRUNCATE ON t EXECUTE FUNCTION f()",
        )
        .await
        .unwrap();
    let e = c.refused("TRUNCATE t").await;
    assert!(e.sqlstate == "0A000" && e.message.contains("\"tr\""), "{e:?}");
    c.clients[1].batch_execute("DROP TRIGGER tr ON t").await.unwrap();
    assert_eq!(c.alice("TRUNCATE t").await, "TRUNCATE TABLE");
    let out: bool = value(&c.clients[0], "SELECT to_regclass('broken_out') IS NULL").await;
    assert!(out);
    let superuser = c.run_as(SUPERUSER, "ALTER TABLE t ADD a float DEFAULT random()").await;
    assert_eq!(superuser.unwrap().tag, "ALTER TABLE");
}

#[tokio::test]
async fn truncate_empties_all_nodes_and_asks_for_the_right() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id serial) PARTITION BY HASH (id)").await;
    for client in &c.clients {
        for _ in 0..20 {
            let _ = client.batch_execute("INSERT INTO t DEFAULT VALUES").await;
        }
    }
    let rows = "SELECT count(*) FROM t";
    assert!(c.on_each::<i64>(rows).await.iter().all(|n| *n > 0));
    c.clients[0].batch_execute("CREATE ROLE bob").await.unwrap();
    let e = c.run_as("bob", "TRUNCATE t").await.unwrap_err();
    assert_eq!(
        (e.sqlstate.as_str(), e.message.as_str()),
        ("42501", "permission denied for table t")
    );
    c.alice("TRUNCATE t RESTART IDENTITY").await;
    assert_eq!(c.on_each::<i64>(rows).await, [0, 0]);
    assert_eq!(c.on_each::<i64>("SELECT nextval('t_id_seq')").await, [1, 2]);
}

#[tokio::test]
async fn a_group_that_moves_is_left_alone() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    let set = |state: &str| {
        format!(
            "DELETE FROM pgshunt.moves; INSERT INTO pgshunt.moves (shard_id, group_id, source_id, \
             target_id, table_ids, state) SELECT 1, group_id, 1, 2, '{{}}', '{state}' FROM pgshunt.colocation_groups"
        )
    };
    for (state, hint) in [("copying", "CANCEL MOVE"), ("soaking", "FINISH MOVE")] {
        c.clients[0].batch_execute(&set(state)).await.unwrap();
        for sql in [
            "DROP TABLE t",
            "TRUNCATE t",
            "ALTER TABLE t ADD a int",
            "CREATE INDEX ON t (id)",
            "CREATE TABLE u (id int) PARTITION BY HASH (id)",
        ] {
            let e = c.refused(sql).await;
            assert_eq!(e.sqlstate, "55006", "{sql}");
            assert!(e.hint.as_deref().unwrap_or_default().contains(hint), "{sql}: {e:?}");
        }
    }
    c.clients[0].batch_execute(&set("done")).await.unwrap();
    c.alice("DROP TABLE t").await;
    c.nothing_left().await;
}

#[tokio::test]
async fn the_sessions_settings_are_in_force() {
    let c = Cluster::start(2).await;
    c.clients[0]
        .batch_execute(
            "CREATE SCHEMA app; CREATE ROLE team; GRANT CREATE, USAGE ON SCHEMA app TO team; \
             GRANT team TO alice",
        )
        .await
        .unwrap();
    let run = async |settings: &[(String, String)], sql: &str| {
        ddl::execute(&c.store, &DdlRequest::new("alice", settings.to_vec(), sql)).await
    };
    let base = [
        setting("search_path", "app"),
        setting("DateStyle", "SQL, DMY"),
        ("role".to_owned(), "SET ROLE team".to_owned()),
    ];
    run(&base, "CREATE TABLE t (id int, d date DEFAULT '03/04/2020') PARTITION BY HASH (id)")
        .await
        .unwrap();
    run(&base, "ALTER TABLE t ADD e date DEFAULT '05/06/2020'").await.unwrap();
    let each: Vec<String> = c
        .on_each(
            "SELECT tableowner || (SELECT string_agg(pg_get_expr(adbin, adrelid), ' ' ORDER BY adnum) \
             FROM pg_attrdef WHERE adrelid = 'app.t'::regclass) FROM pg_tables \
             WHERE schemaname = 'app' AND tablename = 't'",
        )
        .await;
    assert_eq!(each, vec!["team'2020-04-03'::date '2020-06-05'::date"; 2]);
    let other = [("session_authorization".to_owned(), "SET SESSION AUTHORIZATION team".to_owned())];
    assert_eq!(run(&other, "DROP TABLE app.t").await.unwrap_err().sqlstate, "42501");
}

#[tokio::test]
async fn a_read_only_session_is_refused_in_postgres_words() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    let settings = vec![setting("default_transaction_read_only", "on")];
    for sql in [
        "CREATE TABLE u (id int) PARTITION BY HASH (id)",
        "DROP TABLE t",
        "TRUNCATE t",
        "CREATE INDEX i ON t (id)",
        "DROP INDEX i",
        "ALTER TABLE t ADD a int",
        "ALTER TABLE t OWNER TO alice",
        "CREATE USER bob",
        "ALTER GROUP alice ADD USER alice",
        "ALTER ROLE alice SET work_mem = '1MB'",
        "DROP USER alice",
        "GRANT alice TO alice",
        "REVOKE alice FROM alice",
        "GRANT SELECT ON t TO alice",
        "REVOKE SELECT ON t FROM alice",
        "CREATE POLICY p ON t",
        "DROP POLICY p ON t",
        "ALTER POLICY p ON t RENAME TO q",
        "ALTER SCHEMA public OWNER TO alice",
        "ALTER DATABASE app SET work_mem = '1MB'",
        "REASSIGN OWNED BY alice TO alice",
        "DROP OWNED BY alice",
    ] {
        c.clients[0].batch_execute("BEGIN READ ONLY").await.unwrap();
        let e = c.clients[0].batch_execute(sql).await.unwrap_err();
        let postgres = e.as_db_error().unwrap();
        c.clients[0].batch_execute("ROLLBACK").await.unwrap();
        let request = DdlRequest::new("alice", settings.clone(), sql);
        let e = ddl::execute(&c.store, &request).await.unwrap_err();
        assert_eq!(
            (e.sqlstate.as_str(), e.message.as_str()),
            (postgres.code().code(), postgres.message())
        );
    }
}

const CRASH: &str = "PGSHUNT_TEST_DDL_CONFIG";
