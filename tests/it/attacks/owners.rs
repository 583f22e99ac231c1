//! What the owner of a distributed table does to it on a node, behind pgshunt's back: publications, replica
//! identities, owners. A move copies everything or is refused with a reason.

use pgshunt::moves::State;

use super::moves::{Scene, programs};
use super::*;
use crate::moves::scene::{assert_tidy, last_move, serves, until_state};

/// The SQLSTATE of an error.
async fn code(client: &tokio_postgres::Client, sql: &str) -> String {
    let e = client.batch_execute(sql).await.expect_err(sql);
    e.code().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().to_owned()
}

async fn published(programs: Option<std::path::PathBuf>) {
    let scene = Scene::new(programs).await;
    for root in &scene.roots {
        root.batch_execute("GRANT CREATE ON DATABASE app TO mallory").await.unwrap();
    }
    let mallory = &scene.nodes[0];
    let filters = scene.version >= 150_000;
    // PostgreSQL lets no function of anybody's into a row filter, nor an operator: the publisher's session
    // would compute it.
    mallory
        .batch_execute(
            "CREATE FUNCTION trap_equal(int, int) RETURNS bool LANGUAGE sql IMMUTABLE \
               AS 'SELECT public.trap(''filter'') = 1'; \
             CREATE OPERATOR public.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = trap_equal)",
        )
        .await
        .unwrap();
    for filter in ["trap('filter') = 1", "v OPERATOR(public.===) 1", "v = 1::trapped"] {
        let sql = format!("CREATE PUBLICATION p FOR TABLE shard_1.items WHERE ({filter})");
        let refused = code(mallory, &sql).await;
        assert_eq!(refused, if filters { "0A000" } else { "42601" }, "{sql}");
    }
    // What follows the leaf would go on with a part of its rows: the move says so and leaves it alone.
    let filter = if filters { " WHERE (k > 3)" } else { "" };
    let by_root = " WITH (publish_via_partition_root)";
    for (plant, words, dig_out) in [
        (
            format!("CREATE PUBLICATION p FOR TABLE shard_1.items{filter}"),
            "publication p of mallory publishes shard_1.items",
            "DROP PUBLICATION p",
        ),
        (
            format!("CREATE PUBLICATION p FOR TABLE items{filter}{by_root}"),
            "public.items differs: only node1 has: publication p",
            "DROP PUBLICATION p",
        ),
    ] {
        mallory.batch_execute(&plant).await.unwrap_or_else(|e| panic!("{plant}: {e:?}"));
        scene.is_refused(&plant, words).await;
        mallory.batch_execute(dig_out).await.unwrap();
    }
    // One of the parent on every node follows the shard.
    let sql = format!("CREATE PUBLICATION p FOR TABLE items{filter}{by_root}");
    scene.on_both(&sql).await;
    scene.goes_and_comes_back("published on both").await;
    // Through pgshunt there is none.
    for sql in [
        "CREATE PUBLICATION q FOR TABLE items",
        "CREATE PUBLICATION q FOR TABLE shard_1.items",
        "CREATE PUBLICATION q FOR ALL TABLES",
    ] {
        let refused = code(&scene.mallory, sql).await;
        assert!(refused == "0A000" || refused == "42501", "{sql}: {refused}");
    }
    // A subscription of hers would bring rows into a leaf from anywhere.
    let sql =
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)";
    assert_eq!(code(mallory, sql).await, "42501");
    assert_eq!(scene.sprung(), Vec::<String>::new());
    assert_tidy(&scene.proxy.nodes, "at the end").await;
}

#[tokio::test]
async fn what_an_owner_publishes_is_followed_or_keeps_its_shard_where_it_is() {
    published(None).await;
    if let Some(programs) = programs("PGSHUNT_POSTGRES_17") {
        published(Some(programs)).await;
    }
}

/// How a leaf's owner can have its rows named to the other side.
const IDENTITIES: [&str; 4] = ["NOTHING", "USING INDEX items_second", "FULL", "DEFAULT"];

#[tokio::test]
async fn whatever_identifies_rows_by_an_owners_will_all_of_them_move() {
    let scene = Scene::new(None).await;
    scene.mallory.batch_execute("ALTER TABLE items ALTER e SET DEFAULT 1").await.unwrap();
    scene.mallory.batch_execute("ALTER TABLE items ADD COLUMN w int").await.unwrap();
    for k in 0..20 {
        let sql = "UPDATE items SET w = $1 WHERE k = $1";
        assert_eq!(scene.mallory.execute(sql, &[&k]).await.unwrap(), 1);
    }
    let sql = "ALTER TABLE items ALTER w SET NOT NULL";
    scene.mallory.batch_execute(sql).await.unwrap();
    for (node, shard) in [(0, 1), (1, 2)] {
        let sql = format!("CREATE UNIQUE INDEX items_second ON shard_{shard}.items (w)");
        scene.roots[node].batch_execute(&sql).await.unwrap();
    }
    let root = scene.proxy.client().await;
    for identity in IDENTITIES {
        let sql = format!("ALTER TABLE shard_1.items REPLICA IDENTITY {identity}");
        scene.nodes[0].batch_execute(&sql).await.unwrap();
        let before: i64 = value(&root, "SELECT sum(v) FROM items").await;
        scene.console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
        let mut rounds = 0;
        while !["soaking", "failed"].contains(&last_move(&scene.console, "state").await.as_str()) {
            for k in 0..20 {
                let sql = "UPDATE items SET v = v + 1 WHERE k = $1";
                match root.execute(sql, &[&k]).await {
                    Ok(rows) => assert_eq!(rows, 1, "{identity}"),
                    Err(e) => panic!("{identity}: {e:?}"),
                }
                let sql = "DELETE FROM items WHERE k = $1";
                assert_eq!(root.execute(sql, &[&(100 + k)]).await.unwrap(), 0);
            }
            rounds += 1;
        }
        let error = last_move(&scene.console, "error").await;
        assert_eq!(last_move(&scene.console, "state").await, "soaking", "{identity}: {error}");
        let now: i64 = value(&root, "SELECT sum(v) FROM items").await;
        assert_eq!(now, before + rounds * 20, "{identity}");
        for k in 0..20 {
            let sql = "UPDATE items SET v = v + 1, w = w + 100 WHERE k = $1";
            assert_eq!(root.execute(sql, &[&k]).await.unwrap(), 1, "{identity}");
        }
        scene.console.does("ROLLBACK MOVE NOWAIT").await;
        until_state(&scene.console, State::Done).await;
        assert_eq!(serves(&scene.console, 1).await, "node1", "{identity}");
        let now: i64 = value(&root, "SELECT sum(v) FROM items").await;
        assert_eq!(now, before + (rounds + 1) * 20, "{identity}");
    }
    assert_tidy(&scene.proxy.nodes, "at the end").await;
}

/// Owners, grants and policies of everything, as every node has them.
const RIGHTS: &str = "\
    SELECT concat_ws(E'\\n', \
      (SELECT string_agg(concat_ws(' ', n.nspname, c.relname, c.relkind, c.relowner::regrole, c.relacl), \
         ', ' ORDER BY n.nspname, c.relname) \
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
       WHERE n.nspname !~ '^(pg_|information_schema$|pgshunt$)'), \
      (SELECT string_agg(concat_ws(' ', nspname, nspowner::regrole, nspacl), ', ' ORDER BY nspname) \
       FROM pg_namespace WHERE nspname !~ '^pg_'), \
      (SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'))";

async fn rights(p: &Proxy) -> Vec<String> {
    let mut all = Vec::new();
    for node in &p.nodes.nodes {
        all.push(value(&connect(node.port()).await, RIGHTS).await);
    }
    all
}

/// What belongs to a role changes hands on all nodes, or nothing does.
#[tokio::test]
async fn what_roles_own_changes_hands_everywhere_or_nowhere() {
    let p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 4").await;
    let root = p.client().await;
    for sql in [
        "CREATE ROLE ann LOGIN PASSWORD 'a'",
        "CREATE ROLE bob LOGIN PASSWORD 'b'",
        "CREATE ROLE eve LOGIN PASSWORD 'e'",
        "GRANT bob TO ann",
        "GRANT CREATE ON SCHEMA public TO ann, bob",
    ] {
        root.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let ann = connect_as(p.port(), DATABASE, "ann", "a").await.unwrap();
    for sql in [
        "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY HASH (id)",
        "CREATE TABLE local (a int)",
        "GRANT SELECT ON t TO eve",
    ] {
        ann.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for id in 0..20 {
        ann.execute("INSERT INTO t VALUES ($1, 0)", &[&id]).await.unwrap();
    }
    let eve = connect_as(p.port(), DATABASE, "eve", "e").await.unwrap();
    // What PostgreSQL refuses of them, and what would take a distributed table away.
    let before = rights(&p).await;
    for (who, client, sql, refused) in [
        ("eve", &eve, "REASSIGN OWNED BY ann TO eve", "42501"),
        ("eve", &eve, "DROP OWNED BY ann CASCADE", "42501"),
        ("eve", &eve, "ALTER TABLE t OWNER TO eve", "42501"),
        ("eve", &eve, "DROP ROLE ann", "42501"),
        ("ann", &ann, "ALTER TABLE t OWNER TO eve", "42501"),
        ("ann", &ann, "REASSIGN OWNED BY ann TO eve", "42501"),
        ("ann", &ann, "DROP OWNED BY ann", "0A000"),
        ("ann", &ann, "DROP OWNED BY CURRENT_USER CASCADE", "0A000"),
        ("ann", &ann, "DROP OWNED BY bob, ann", "0A000"),
        ("ann", &ann, "DO $$BEGIN EXECUTE 'DROP OWNED BY ann'; END$$", "0A000"),
        ("ann", &ann, "BEGIN; DROP OWNED BY ann; COMMIT", "0A000"),
        ("root", &root, "DROP OWNED BY ann", "0A000"),
        ("root", &root, "DROP ROLE ann", "2BP01"),
        ("root", &root, "DROP ROLE bob, ann", "2BP01"),
        ("root", &root, "REASSIGN OWNED BY postgres TO ann", "0A000"),
    ] {
        let e = client.batch_execute(sql).await.expect_err(sql);
        let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).clone();
        assert_eq!(e.code().code(), refused, "{who}: {sql}: {e:?}");
        assert!(refused != "0A000" || e.hint().is_some(), "{sql}: {e:?}");
        let _ = client.batch_execute("ROLLBACK").await;
        assert_eq!(rights(&p).await, before, "{who}: {sql}");
        assert_eq!(value::<i64>(&ann, "SELECT count(*) FROM t").await, 20, "{sql}");
    }
    // What they may do is done everywhere.
    let owners = "SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relname = 't'";
    let owned_by = async |who: &str, sql: &str| {
        for node in &p.nodes.nodes {
            let owners: String = value(&connect(node.port()).await, owners).await;
            assert_eq!(owners, who, "{sql}");
        }
    };
    for (client, sql, who) in [
        (&ann, "ALTER TABLE t OWNER TO bob", "bob"),
        (&root, "ALTER TABLE t OWNER TO ann", "ann"),
        (&ann, "REASSIGN OWNED BY ann TO bob", "bob"),
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        owned_by(who, sql).await;
    }
    root.batch_execute("DROP OWNED BY eve").await.unwrap();
    root.batch_execute("DROP ROLE eve").await.unwrap();
    assert_eq!(value::<i64>(&root, "SELECT count(*) FROM t").await, 20);
    // A role that owns something of its own on another node stays on all of them.
    root.batch_execute("DROP OWNED BY ann").await.unwrap();
    let other = connect(p.nodes.nodes[1].port()).await;
    let own = "CREATE TABLE anns_own (a int); ALTER TABLE anns_own OWNER TO ann";
    other.batch_execute(own).await.unwrap();
    let before = rights(&p).await;
    assert_eq!(code(&root, "DROP ROLE ann").await, "2BP01");
    assert_eq!(rights(&p).await, before);
}

/// The owner has done on one node, directly, what pgshunt does on all: no answer is a part of it.
#[tokio::test]
async fn what_changes_hands_on_one_node_alone_is_told_and_not_moved() {
    let scene = Scene::new(None).await;
    let root = &scene.roots[0];
    for root in &scene.roots {
        let sql = "CREATE ROLE heir; GRANT heir TO mallory; GRANT CREATE ON SCHEMA public TO heir";
        root.batch_execute(sql).await.unwrap();
    }
    let mallory = &scene.nodes[0];
    mallory.batch_execute("ALTER TABLE items OWNER TO heir").await.unwrap();
    let words = "public.items differs: only node1 has: owner heir";
    scene.is_refused("ALTER TABLE OWNER", words).await;
    assert_tidy(&scene.proxy.nodes, "after the refusal").await;
    mallory.batch_execute("ALTER TABLE items OWNER TO mallory").await.unwrap();
    scene.goes_and_comes_back("the owner is one again").await;
    // All that was hers on the node is gone, the node's part of the table with it.
    mallory.batch_execute("DROP OWNED BY mallory CASCADE").await.unwrap();
    for sql in ["SELECT count(*) FROM items", "SELECT v FROM items", "UPDATE items SET v = 1"] {
        let e = scene.proxy.client().await.batch_execute(sql).await.expect_err(sql);
        assert!(e.code().is_some(), "{sql}: {e:?}");
    }
    scene.is_refused("DROP OWNED", "node1 has no table 1 of pgshunt.tables any more").await;
    let there: i64 = value(root, "SELECT count(*) FROM pg_class WHERE relname = 'items'").await;
    assert_eq!(there, 0);
}
