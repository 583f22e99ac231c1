//! What a crash or a new node finds: all of a statement, or none of it.

use super::*;

/// Run by the next test in a process of its own, which a failpoint aborts.
#[tokio::test]
async fn helper_that_creates_a_table_and_crashes() {
    let Ok(ports) = std::env::var(CRASH) else { return };
    let mut config = LocalCluster::start(0).unwrap().config;
    for (i, port) in ports.split(',').enumerate() {
        config.cluster.nodes.push(pgshunt::config::ClusterNode {
            name: format!("node{}", i + 1),
            host: "127.0.0.1".into(),
            port: port.parse().unwrap(),
        });
    }
    let connector = Arc::new(Connector::new(&config));
    let store = Store::open(connector, &config.cluster.nodes).await.unwrap();
    let request =
        DdlRequest::new("alice", Vec::new(), "CREATE TABLE t (id serial) PARTITION BY HASH (id)");
    let _ = ddl::execute(&store, &request).await;
    println!("SURVIVED");
}

/// Creates a table and crashes at a point of that.
fn crash(c: &Cluster, failpoint: &str) {
    let ports: Vec<String> = c.nodes.nodes.iter().map(|n| n.port().to_string()).collect();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ddl::recovery::helper_that_creates_a_table_and_crashes", "--nocapture"])
        .env(CRASH, ports.join(","))
        .env("PGSHUNT_FAILPOINT", failpoint)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    assert!(!child.status.success() && !printed.contains("SURVIVED"), "{failpoint}: {printed}");
}

/// The right to change the catalog comes back when a successor does not.
#[tokio::test]
async fn recovery_goes_on_after_a_takeover_that_came_to_nothing() {
    let c = Cluster::start(2).await;
    crash(&c, "ddl_after_decision");
    c.store.steward().give_up().await;
    let recovers =
        tokio::spawn(ddl::keep_recovering(c.store.clone(), std::time::Duration::from_millis(10)));
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    assert_eq!(c.on_each::<i64>(prepared).await, [0, 1], "the right is not ours");
    c.store.steward().take();
    wait_for("the statement to be carried to its end", async || {
        (c.on_each::<i64>(prepared).await == [0, 0]).then_some(())
    })
    .await;
    recovers.abort();
}

#[tokio::test]
async fn a_crash_at_any_point_is_recovered_to_all_or_nothing() {
    let c = Cluster::start(3).await;
    for (failpoint, done) in [
        ("ddl_before_prepare", false),
        ("ddl_after_prepare", false),
        ("ddl_before_decision", false),
        ("ddl_after_decision", true),
    ] {
        crash(&c, failpoint);
        ddl::recover(&c.store).await.unwrap();
        if done {
            let there = "SELECT to_regclass('t') IS NOT NULL";
            assert_eq!(c.on_each::<bool>(there).await, [true; 3], "{failpoint}");
            assert!(c.store.reload().await.unwrap().table_by_name("public", "t").is_some());
            c.alice("DROP TABLE t").await;
        }
        c.nothing_left().await;
        assert_eq!(ddl::recover(&c.store).await.unwrap(), ddl::Recovered::default());
    }
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
    for what in ["schema shard_7", "relation public.t"] {
        let e = refused("other", "127.0.0.1", other.port()).await;
        assert_eq!(e.sqlstate, "55000");
        assert_eq!(e.detail, Some(format!("There are {what}.")));
        assert!(e.hint.unwrap().contains("another cluster"));
        let next = "DROP SCHEMA IF EXISTS shard_7; CREATE TABLE IF NOT EXISTS public.t ()";
        client.batch_execute(next).await.unwrap();
    }
    client.batch_execute("DROP TABLE public.t").await.unwrap();
    let at_home = connect(home).await;
    let trigger = "CREATE TRIGGER \"by hand\" AFTER INSERT ON t FOR EACH ROW \
                   EXECUTE FUNCTION tsvector_update_trigger(a, b, c)";
    at_home.batch_execute(trigger).await.unwrap();
    let e = refused("other", "127.0.0.1", other.port()).await;
    assert!(e.message.contains("table \"t\" has the trigger \"by hand\""), "{e:?}");
    assert!(e.hint.unwrap().contains("drop it there"));
    at_home.batch_execute("DROP TRIGGER \"by hand\" ON t").await.unwrap();
    assert_eq!(c.store.reload().await.unwrap().nodes().count(), 1);
    nodes::add(&c.store, "other", "127.0.0.1", other.port()).await.unwrap();
}
