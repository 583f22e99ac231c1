//! DDL on distributed tables that are there, and nodes that come later.

use pgshunt::catalog::nodes;

use crate::ddl::{Cluster, LEAVES};
use crate::support::*;

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
        assert_eq!(c.refused(sql).await.sqlstate, "0A000", "{sql}");
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
async fn a_new_node_has_all_parents_and_takes_part() {
    let mut c = Cluster::start(2).await;
    c.alice(
        "CREATE TABLE t (id serial, k int, g bigint GENERATED ALWAYS AS IDENTITY (START 7), \
         PRIMARY KEY (k, id)) PARTITION BY HASH (k)",
    )
    .await;
    c.alice("CREATE INDEX by_g ON t (g DESC) WHERE g > 0").await;
    c.alice("ALTER TABLE t ADD late text NOT NULL DEFAULT 'x'").await;
    let node = LocalNode::start(NodeOptions::new("node3")).unwrap();
    let (id, advice) = nodes::add(&c.store, "node3", "127.0.0.1", node.port()).await.unwrap();
    assert_eq!((id.0, advice), (3, vec![]));
    let client = connect(node.port()).await;
    client.batch_execute("SET search_path = public").await.unwrap();
    c.clients.push(client);

    let shape = "SELECT concat_ws('; ', tableowner, pg_get_partkeydef('t'::regclass), \
        (SELECT string_agg(concat_ws(' ', attname, atttypid::regtype, attnotnull, attidentity, \
            pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum) FROM pg_attribute \
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
            WHERE attrelid = 't'::regclass AND attnum > 0), \
        (SELECT string_agg(replace(indexdef, ' ONLY', ''), ', ' ORDER BY indexname) FROM pg_indexes \
            WHERE schemaname = 'public' AND tablename = 't')) FROM pg_tables WHERE tablename = 't' \
        AND schemaname = 'public'";
    let each: Vec<String> = c.on_each(shape).await;
    assert!(each.iter().all(|e| *e == each[0]), "{each:#?}");
    let leaves: Vec<String> = c.on_each(LEAVES).await;
    assert_eq!(leaves[2], "", "it has no shard yet");
    let mut seen = std::collections::BTreeSet::new();
    for sequence in ["t_id_seq", "t_g_seq"] {
        seen.clear();
        for _ in 0..40 {
            for value in c.on_each::<i64>(&format!("SELECT nextval('{sequence}')")).await {
                assert!(seen.insert(value), "{sequence}: {value} twice");
            }
        }
    }
    assert_eq!(c.store.routes().load().node_by_name("node3").unwrap().port, node.port());
    // From now on it takes part.
    c.alice("CREATE TABLE u (a text) PARTITION BY HASH (a)").await;
    assert_eq!(c.store.routes().load().nodes_of(pgshunt::topology::GroupId(2)).len(), 3);
}

#[tokio::test]
async fn a_server_that_cannot_be_a_node_is_refused_in_words() {
    let c = Cluster::start(1).await;
    c.alice("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    let refused = async |name: &str, host: &str, port: u16| {
        nodes::add(&c.store, name, host, port).await.map(|ok| panic!("{ok:?}")).unwrap_err()
    };
    let home = c.nodes.nodes[0].port();
    assert_eq!(refused("node1", "127.0.0.1", 1).await.message, "node \"node1\" is there already");
    assert!(refused("b", "127.0.0.1", home).await.message.contains("is node \"node1\" already"));
    let e = refused("b", "localhost", home).await;
    assert!(e.message.contains("under another address"), "{e:?}");
    let weak = LocalNode::start(
        NodeOptions::new("weak").set("wal_level", "replica").set("max_prepared_transactions", "0"),
    )
    .unwrap();
    let e = refused("weak", "127.0.0.1", weak.port()).await;
    assert_eq!(e.sqlstate, "55000");
    assert!(e.detail.unwrap().contains("wal_level is replica"));
    assert!(e.hint.unwrap().contains("max_prepared_transactions = 20"));
    let other = LocalNode::start(NodeOptions::new("other")).unwrap();
    let client = connect(other.port()).await;
    client.batch_execute("CREATE SCHEMA shard_7").await.unwrap();
    assert!(refused("other", "127.0.0.1", other.port()).await.message.contains("another cluster"));
    client.batch_execute("DROP SCHEMA shard_7; CREATE TABLE public.t ()").await.unwrap();
    let e = refused("other", "127.0.0.1", other.port()).await;
    assert_eq!(e.sqlstate, "42P07");
    client.batch_execute("DROP TABLE public.t").await.unwrap();
    assert_eq!(c.store.reload().await.unwrap().nodes().count(), 1);
    nodes::add(&c.store, "other", "127.0.0.1", other.port()).await.unwrap();
}
