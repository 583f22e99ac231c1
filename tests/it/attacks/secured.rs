//! Row security while a shard moves: all rows go along, whoever may see them; each client sees afterwards
//! what it saw before; and nobody's policy is asked with pgshunt's rights.

use std::path::PathBuf;

use pgshunt::moves::State;
use tokio_postgres::Client;

use super::moves::{Scene, programs};
use super::*;
use crate::moves::scene::{Brake, assert_tidy, last_move, serves, until_move, until_state};

/// A policy's function: says in the node's log when pgshunt's own roles are asked by it, and shows even
/// keys only.
const MAY: &str = "\
    CREATE FUNCTION public.may(k int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN \
      PERFORM public.trap('policy'); \
      IF current_user ~ '^pgshunt_move' THEN RAISE LOG 'SPRUNG: policy as %', current_user; END IF; \
      RETURN k % 2 = 0; END $$; \
    ALTER TABLE items ENABLE ROW LEVEL SECURITY; \
    ALTER TABLE items FORCE ROW LEVEL SECURITY; \
    CREATE POLICY p ON items USING (may(k)) WITH CHECK (may(k)); \
    GRANT SELECT, INSERT, UPDATE, DELETE ON items TO reader";

/// The leaves are hidden from their owner altogether.
const HIDE: &str = "\
    ALTER TABLE shard_N.items ENABLE ROW LEVEL SECURITY; \
    ALTER TABLE shard_N.items FORCE ROW LEVEL SECURITY; \
    CREATE POLICY hide ON shard_N.items USING (trap('hidden') = 0 AND k < 0)";

/// All rows of the table, as somebody sees them.
async fn seen(client: &Client) -> Vec<String> {
    let mut rows = texts(client, "SELECT concat_ws(' ', k, v) FROM items").await;
    rows.sort();
    rows
}

/// All rows of shard 1 on a node, as a superuser sees them.
async fn of_leaf(node: &Client) -> Vec<String> {
    let mut rows = texts(node, "SELECT concat_ws(' ', k, v) FROM shard_1.items").await;
    rows.sort();
    rows
}

struct Secured {
    scene: Scene,
    /// A client whose rows are the policy's.
    reader: Client,
    /// A client that row security does not hold for.
    root: Client,
}

impl Secured {
    async fn new(programs: Option<PathBuf>) -> Self {
        let scene = Scene::new(programs).await;
        let root = scene.proxy.client().await;
        root.batch_execute("CREATE ROLE reader LOGIN PASSWORD 'r'").await.unwrap();
        scene.on_both(MAY).await;
        for shard in 1..=2 {
            let on = scene.proxy.console().await.column("SHOW SHARDS", "node").await;
            let node = usize::from(on[shard - 1] == "node2");
            let sql = HIDE.replace("shard_N", &format!("shard_{shard}"));
            scene.nodes[node].batch_execute(&sql).await.unwrap();
        }
        let reader = connect_as(scene.proxy.port(), DATABASE, "reader", "r").await.unwrap();
        Self { scene, reader, root }
    }

    /// Every client changes what it may, and what it may not stays.
    async fn write(&self, case: &str) {
        let all = self.root.execute("UPDATE items SET v = v + 1 WHERE k = 7", &[]).await.unwrap();
        assert_eq!(all, 1, "{case}");
        for (client, who) in [(&self.reader, "reader"), (&self.scene.mallory, "mallory")] {
            for (k, rows) in [(6, 1), (7, 0), (8, 1)] {
                let sql = "UPDATE items SET v = v + 1 WHERE k = $1";
                let done = client.execute(sql, &[&k]).await;
                let done = done.unwrap_or_else(|e| panic!("{case}, {who}, {k}: {e:?}"));
                assert_eq!(done, rows, "{case}, {who}, {k}");
            }
            let e = client.batch_execute("INSERT INTO items (k) VALUES (101)").await.unwrap_err();
            assert_eq!(e.code().map(|c| c.code()), Some("42501"), "{case}, {who}: {e:?}");
        }
    }

    /// What each sees is its part of what there is.
    async fn assert_seen(&self, case: &str) {
        let all = seen(&self.root).await;
        assert_eq!(all.len(), 20, "{case}");
        let even = |row: &&String| row.split(' ').next().unwrap().parse::<i32>().unwrap() % 2 == 0;
        let even: Vec<_> = all.iter().filter(even).cloned().collect();
        assert_eq!(seen(&self.reader).await, even, "{case}");
        assert_eq!(seen(&self.scene.mallory).await, even, "{case}");
    }
}

async fn all_rows_go_along(programs: Option<PathBuf>) {
    let s = Secured::new(programs).await;
    let console = &s.scene.console;
    s.assert_seen("before").await;
    let before = of_leaf(&s.scene.roots[0]).await;
    assert!(before.len() > 4, "{before:?}");
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    let mut rounds = 0;
    while !["soaking", "failed"].contains(&last_move(console, "state").await.as_str()) {
        s.write("while it is copied").await;
        rounds += 1;
    }
    let error = last_move(console, "error").await;
    assert_eq!(last_move(console, "state").await, "soaking", "{error}");
    assert!(rounds > 1, "nobody wrote while the shard moved");
    s.assert_seen("on the other node").await;
    let there = of_leaf(&s.scene.roots[1]).await;
    assert_eq!(there.len(), before.len());
    s.write("while it soaks").await;
    // The retired leaf follows, although its owner sees none of it.
    let now = of_leaf(&s.scene.roots[1]).await;
    wait_for("the retired leaf to follow", async || {
        (of_leaf(&s.scene.roots[0]).await == now).then_some(())
    })
    .await;
    console.does("ROLLBACK MOVE NOWAIT").await;
    until_move(console, "state", |s| s == "done" || s == "failed").await;
    assert_eq!(last_move(console, "error").await, "");
    assert_eq!(serves(console, 1).await, "node1");
    assert_eq!(of_leaf(&s.scene.roots[0]).await, now);
    s.write("back again").await;
    s.assert_seen("back again").await;
    assert_eq!(s.scene.sprung(), Vec::<String>::new());
    assert_tidy(&s.scene.proxy.nodes, "at the end").await;
    // The trap works.
    s.scene.roots[0].batch_execute("SELECT public.trap('by hand')").await.unwrap();
    assert_eq!(s.scene.sprung().len(), 1);
}

#[tokio::test]
async fn all_rows_of_a_secured_table_move_and_each_client_sees_its_own() {
    all_rows_go_along(None).await;
}

#[tokio::test]
async fn all_rows_of_a_secured_table_move_between_older_and_newer_nodes() {
    for variable in ["PGSHUNT_POSTGRES_14", "PGSHUNT_POSTGRES_17"] {
        if let Some(programs) = programs(variable) {
            all_rows_go_along(Some(programs)).await;
        }
    }
}

/// Row security is forced upon the owner behind the back of a move that applies rows as the owner.
async fn forced_late(programs: Option<PathBuf>) {
    let scene = Scene::new(programs).await;
    let console = &scene.console;
    let root = scene.proxy.client().await;
    // The move is held up at another table of the group, so that this one can be altered.
    let brakes = "CREATE TABLE brakes (k int PRIMARY KEY) PARTITION BY HASH (k)";
    scene.mallory.batch_execute(brakes).await.unwrap();
    let brake = Brake::pull_on(&scene.proxy.nodes.nodes[0], 1, "brakes").await;
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(console, "blocker", |b| b.contains("pid")).await;
    let force = "ALTER TABLE shard_1.items ENABLE ROW LEVEL SECURITY; \
                 ALTER TABLE shard_1.items FORCE ROW LEVEL SECURITY";
    // On the source the leaf serves, so its owner may; the way back was prepared before.
    scene.nodes[0].batch_execute(force).await.unwrap();
    brake.release().await;
    until_move(console, "state", |s| s == "soaking" || s == "failed").await;
    let error = last_move(console, "error").await;
    assert_eq!(last_move(console, "state").await, "soaking", "{error}");
    for k in 0..20 {
        let sql = "UPDATE items SET v = v + 1 WHERE k = $1";
        assert_eq!(root.execute(sql, &[&k]).await.unwrap(), 1);
    }
    console.does("ROLLBACK MOVE NOWAIT").await;
    until_state(console, State::Done).await;
    assert_eq!(seen(&root).await.len(), 20);
    assert_eq!(value::<i64>(&root, "SELECT sum(v) FROM items").await, 40);
    assert_eq!(scene.sprung(), Vec::<String>::new());
    assert_tidy(&scene.proxy.nodes, "at the end").await;
}

#[tokio::test]
async fn row_security_forced_while_a_shard_moves_does_not_keep_it_from_coming_back() {
    forced_late(None).await;
    if let Some(programs) = programs("PGSHUNT_POSTGRES_17") {
        forced_late(Some(programs)).await;
    }
}

/// Where row security is forced upon the owner its rows are applied by pgshunt's own role, so the owner may
/// not have anything of its own computed for them.
async fn planted_under_force(programs: Option<PathBuf>) {
    let s = Secured::new(programs).await;
    let (scene, console) = (&s.scene, &s.scene.console);
    let brakes = "CREATE TABLE brakes (k int PRIMARY KEY) PARTITION BY HASH (k)";
    scene.mallory.batch_execute(brakes).await.unwrap();
    let brake = Brake::pull_on(&scene.proxy.nodes.nodes[0], 1, "brakes").await;
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(console, "blocker", |b| b.contains("pid")).await;
    for plant in [
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON shard_1.items FOR EACH ROW \
         EXECUTE FUNCTION trap_of_row()",
        "ALTER TABLE shard_1.items ENABLE ALWAYS TRIGGER t",
        "ALTER TABLE shard_1.items ADD CONSTRAINT c CHECK (trap('check') = 1) NOT VALID",
        "ALTER TABLE shard_1.items NO FORCE ROW LEVEL SECURITY",
    ] {
        let e = scene.nodes[1].batch_execute(plant).await.err();
        let e = e.map(|e| e.code().map(|c| c.code().to_owned()).unwrap_or_default());
        assert_eq!(e.as_deref(), Some("42501"), "{plant}");
    }
    s.write("while it is followed").await;
    brake.release().await;
    until_move(console, "state", |s| s == "soaking" || s == "failed").await;
    let error = last_move(console, "error").await;
    assert_eq!(last_move(console, "state").await, "soaking", "{error}");
    s.write("on the other node").await;
    s.assert_seen("on the other node").await;
    console.does("ROLLBACK MOVE NOWAIT").await;
    until_state(console, State::Done).await;
    s.assert_seen("back again").await;
    assert_eq!(scene.sprung(), Vec::<String>::new());
    assert_tidy(&scene.proxy.nodes, "at the end").await;
}

#[tokio::test]
async fn an_owner_plants_nothing_for_rows_that_pgshunts_role_applies() {
    planted_under_force(None).await;
    if let Some(programs) = programs("PGSHUNT_POSTGRES_17") {
        planted_under_force(Some(programs)).await;
    }
}
