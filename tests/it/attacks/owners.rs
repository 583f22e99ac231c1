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
