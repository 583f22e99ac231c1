//! A plain role plants traps in all that moves. No move springs one with the service role's rights, and
//! no move shows a password.

use std::path::PathBuf;

use pgshunt::app::Server;
use pgshunt::moves::State;

use tokio_postgres::Client;

use super::*;
use crate::moves::scene::{Brake, assert_tidy, last_move, serves, until_move, until_state};

/// A cluster of two nodes on which `mallory` owns the distributed table `items`, four shards of it, and
/// on each node a trap: a function that says in the node's log when it runs as a superuser.
pub struct Scene {
    pub proxy: Proxy,
    pub console: Console,
    pub mallory: Client,
    /// Mallory's own connections to each node.
    pub nodes: Vec<Client>,
    /// For what it takes CREATE on the shards' schemas to do, as a superuser who is deceived.
    pub roots: Vec<Client>,
    pub version: i32,
}

const TRAP: &str = "\
    CREATE FUNCTION public.trap(what text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN \
      IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN \
        RAISE LOG 'SPRUNG: % as %', what, current_user; END IF; \
      RETURN 1; END $$; \
    CREATE FUNCTION public.trap_of_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
      PERFORM public.trap('trigger'); RETURN coalesce(new, old); END $$; \
    CREATE FUNCTION public.trap_between(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE \
      AS $$ SELECT public.trap('range')::float8 $$; \
    CREATE DOMAIN public.trapped AS int CHECK (public.trap('domain') = 1 AND value > 0)";

impl Scene {
    /// On the server programs in this directory, or on the installed ones.
    pub async fn new(programs: Option<PathBuf>) -> Self {
        let options = ClusterOptions {
            programs,
            settings: vec![("log_statement".into(), "all".into())],
            ..ClusterOptions::new(2)
        };
        let nodes = LocalCluster::start_with(&options).unwrap();
        let server = Server::start(nodes.config.clone()).await.unwrap();
        let proxy = Proxy { nodes, server };
        let console = proxy.console().await;
        console.does("SET shard_count = 2").await;
        let root = proxy.client().await;
        root.batch_execute("CREATE ROLE mallory LOGIN PASSWORD 'm'").await.unwrap();
        root.batch_execute("GRANT CREATE ON SCHEMA public TO mallory").await.unwrap();
        let mallory = connect_as(proxy.port(), DATABASE, "mallory", "m").await.unwrap();
        mallory
            .batch_execute(
                "CREATE TABLE items (k int PRIMARY KEY, v int NOT NULL DEFAULT 1, e float8) \
                 PARTITION BY HASH (k)",
            )
            .await
            .unwrap();
        for k in 0..20 {
            mallory.execute("INSERT INTO items (k) VALUES ($1)", &[&k]).await.unwrap();
        }
        let (mut direct, mut roots) = (Vec::new(), Vec::new());
        for node in &proxy.nodes.nodes {
            let c = connect_as(node.port(), DATABASE, "mallory", "m").await.unwrap();
            c.batch_execute(TRAP).await.unwrap();
            direct.push(c);
            roots.push(connect(node.port()).await);
        }
        let version = value(&direct[0], "SELECT current_setting('server_version_num')::int").await;
        Self { proxy, console, mallory, nodes: direct, roots, version }
    }

    pub async fn on_both(&self, sql: &str) {
        let by = if sql.contains("CREATE INDEX") { &self.roots } else { &self.nodes };
        for node in by {
            node.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }

    /// What the nodes' logs say of traps that ran as a superuser.
    pub fn sprung(&self) -> Vec<String> {
        let logs = self.proxy.nodes.nodes.iter().map(LocalNode::log).collect::<String>();
        let said = logs.lines().filter(|l| l.contains("LOG:  SPRUNG"));
        said.map(str::to_owned).collect()
    }

    /// Shard 1 goes to node2, is written to there, and comes back.
    pub async fn goes_and_comes_back(&self, case: &str) {
        self.console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
        until_move(&self.console, "state", |s| s == "soaking" || s == "failed").await;
        let error = last_move(&self.console, "error").await;
        assert_eq!(last_move(&self.console, "state").await, "soaking", "{case}: {error}");
        for k in 0..20 {
            let sql = "UPDATE items SET v = v + 1 WHERE k = $1";
            let done = self.mallory.execute(sql, &[&k]).await;
            assert_eq!(done.unwrap_or_else(|e| panic!("{case}: {e:?}")), 1, "{case}");
        }
        self.console.does("ROLLBACK MOVE NOWAIT").await;
        until_move(&self.console, "state", |s| s == "done" || s == "failed").await;
        let error = last_move(&self.console, "error").await;
        assert_eq!(last_move(&self.console, "state").await, "done", "{case}: {error}");
        assert_eq!(serves(&self.console, 1).await, "node1", "{case}");
    }

    /// Shard 1 does not move, for a reason with these words in it, and nothing is left of the try.
    pub async fn is_refused(&self, case: &str, words: &str) {
        self.console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
        until_move(&self.console, "state", |s| s == "soaking" || s == "failed").await;
        let error = last_move(&self.console, "error").await;
        assert_eq!(last_move(&self.console, "state").await, "failed", "{case}");
        assert!(error.contains(words), "{case}: {error}");
    }
}

enum Ends {
    /// On all versions.
    Refused(&'static str),
    /// The table's owner computes it from PostgreSQL 16 on.
    RefusedBefore16(&'static str),
    Moves,
}

/// What mallory does on both nodes, how a move of it ends, and how it is undone.
const TRAPS: &[(&str, Ends, &str)] = &[
    (
        "ALTER TABLE items ADD CONSTRAINT c CHECK (trap('check') = 1)",
        Ends::Refused("constraint c of public.items calls public.trap(text)"),
        "ALTER TABLE items DROP CONSTRAINT c",
    ),
    (
        "ALTER TABLE items ADD CONSTRAINT c CHECK (query_to_xml('SELECT public.trap(''xml'')', \
         true, true, '') IS NOT NULL)",
        Ends::Refused("constraint c of public.items calls query_to_xml"),
        "ALTER TABLE items DROP CONSTRAINT c",
    ),
    (
        "CREATE INDEX i ON items ((trap('index') + v))",
        Ends::Refused("calls public.trap(text)"),
        "DROP INDEX i",
    ),
    (
        "CREATE INDEX i ON items (v) WHERE v > trap('predicate')",
        Ends::Refused("calls public.trap(text)"),
        "DROP INDEX i",
    ),
    (
        "CREATE STATISTICS s ON (trap('statistics') + v), k FROM items",
        Ends::Refused("statistics s of public.items calls public.trap(text)"),
        "DROP STATISTICS s",
    ),
    (
        "ALTER TABLE items ADD COLUMN g int GENERATED ALWAYS AS (trap('generated') + v) STORED",
        Ends::RefusedBefore16("generated column g of public.items calls public.trap(text)"),
        "ALTER TABLE items DROP COLUMN g",
    ),
    (
        "ALTER TABLE items ADD COLUMN d trapped DEFAULT 1",
        Ends::RefusedBefore16("domain public.trapped of public.items calls public.trap(text)"),
        "ALTER TABLE items DROP COLUMN d",
    ),
    (
        "CREATE TYPE reach AS RANGE (subtype = float8, subtype_diff = trap_between); \
         ALTER TABLE items ADD COLUMN r reach DEFAULT '[1,2)'",
        Ends::RefusedBefore16("type public.reach of public.items calls public.trap_between"),
        "ALTER TABLE items DROP COLUMN r; DROP TYPE reach",
    ),
    (
        "ALTER TABLE items ALTER COLUMN v SET DEFAULT trap('default')",
        Ends::Moves,
        "ALTER TABLE items ALTER COLUMN v SET DEFAULT 1",
    ),
    (
        "ALTER TABLE items ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY p ON items USING (trap('policy') = 1)",
        Ends::Moves,
        "DROP POLICY p ON items; ALTER TABLE items DISABLE ROW LEVEL SECURITY",
    ),
    (
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON items FOR EACH ROW \
         EXECUTE FUNCTION trap_of_row(); ALTER TABLE items ENABLE ALWAYS TRIGGER t",
        Ends::Moves,
        "DROP TRIGGER t ON items",
    ),
];

async fn no_trap_is_sprung(programs: Option<PathBuf>) {
    let scene = Scene::new(programs).await;
    let mut dig_out_together = String::new();
    let by_owner = scene.version >= 160_000;
    for (plant, ends, dig_out) in TRAPS {
        scene.on_both(plant).await;
        match ends {
            Ends::Refused(words) => scene.is_refused(plant, words).await,
            Ends::RefusedBefore16(words) if !by_owner => scene.is_refused(plant, words).await,
            Ends::RefusedBefore16(_) | Ends::Moves => {
                dig_out_together += &format!("{dig_out}; ");
                continue;
            }
        }
        scene.on_both(dig_out).await;
    }
    scene.goes_and_comes_back("what is the owner's to compute").await;
    assert_eq!(scene.sprung(), Vec::<String>::new());
    scene.on_both("ALTER TABLE items FORCE ROW LEVEL SECURITY").await;
    if by_owner {
        scene
            .is_refused("where the owner may not apply rows", "calls public.trap(text); a move")
            .await;
    }
    scene.on_both(&dig_out_together).await;
    // The owner sees no row without a policy.
    scene
        .on_both(
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON items USING (true)",
        )
        .await;
    scene.goes_and_comes_back("row security for its owner").await;
    // What stands on the leaf alone, on the node that serves it.
    let source = &scene.nodes[0];
    for (plant, words, dig_out) in [
        (
            "ALTER TABLE shard_1.items ADD CONSTRAINT pgshunt_move_check CHECK (trap('ours') = 1) NOT VALID",
            "constraint pgshunt_move_check of shard_1.items calls public.trap(text)",
            "ALTER TABLE shard_1.items DROP CONSTRAINT pgshunt_move_check",
        ),
        (
            "CREATE TRIGGER t BEFORE UPDATE ON shard_1.items FOR EACH ROW EXECUTE FUNCTION trap_of_row(); \
             ALTER TABLE shard_1.items ENABLE ALWAYS TRIGGER t",
            "trigger t stands on shard_1.items alone",
            "DROP TRIGGER t ON shard_1.items",
        ),
        (
            "CREATE RULE r AS ON UPDATE TO shard_1.items DO ALSO SELECT trap('rule')",
            "rule r stands on shard_1.items alone",
            "DROP RULE r ON shard_1.items",
        ),
    ] {
        source.batch_execute(plant).await.unwrap();
        scene.is_refused(plant, words).await;
        source.batch_execute(dig_out).await.unwrap();
    }
    assert_eq!(scene.sprung(), Vec::<String>::new());
    assert_tidy(&scene.proxy.nodes, "at the end").await;
    // The trap works: a superuser who computes it is told on.
    scene.roots[0].batch_execute("SELECT public.trap('by hand')").await.unwrap();
    assert_eq!(scene.sprung().len(), 1);
}

/// A directory of another major version's programs. Where it is not set, the installed version
/// has been tried already.
pub fn programs(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

#[tokio::test]
async fn nothing_of_an_owners_is_evaluated_with_the_service_roles_rights() {
    no_trap_is_sprung(None).await;
}

#[tokio::test]
async fn nothing_of_an_owners_is_evaluated_with_the_service_roles_rights_by_older_and_newer_nodes()
{
    for variable in ["PGSHUNT_POSTGRES_14", "PGSHUNT_POSTGRES_17"] {
        if let Some(programs) = programs(variable) {
            no_trap_is_sprung(Some(programs)).await;
        }
    }
}

#[tokio::test]
async fn what_is_planted_while_a_shard_moves_is_not_evaluated_either() {
    planted_late(None).await;
    if let Some(programs) = programs("PGSHUNT_POSTGRES_17") {
        planted_late(Some(programs)).await;
    }
}

async fn planted_late(programs: Option<PathBuf>) {
    let scene = Scene::new(programs).await;
    let root = &scene.roots[1];
    let brake = Brake::pull_on(&scene.proxy.nodes.nodes[0], 1, "items").await;
    scene.console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(&scene.console, "blocker", |b| b.contains("pid")).await;
    let belongs: String = value(
        root,
        "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'shard_1.items'::regclass",
    )
    .await;
    assert_eq!(belongs, "mallory");
    // The leaf that is filled belongs to its owner. Before 16 nobody can name it; from then on its rows
    // are the owner's to compute.
    let mut found = "index late of public.items calls public.trap(text)";
    for sql in [
        "CREATE INDEX ON shard_1.items ((trap('late') + v))",
        "ALTER TABLE shard_1.items ADD CONSTRAINT c CHECK (trap('late') = 1)",
        "CREATE TRIGGER t BEFORE UPDATE ON shard_1.items FOR EACH ROW EXECUTE FUNCTION trap_of_row(); \
         ALTER TABLE shard_1.items ENABLE ALWAYS TRIGGER t",
    ] {
        let done = scene.nodes[1].batch_execute(sql).await;
        if scene.version >= 160_000 && !sql.contains("INDEX") {
            done.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            found = "constraint c of shard_1.items calls public.trap(text)";
        } else {
            assert_eq!(done.unwrap_err().code().map(|c| c.code()), Some("42501"), "{sql}");
        }
    }
    // What ATTACH would have to build on the target: found before it is attached.
    root.batch_execute("CREATE INDEX late ON items ((trap('late') + v))").await.unwrap();
    brake.release().await;
    until_state(&scene.console, State::Failed).await;
    let error = last_move(&scene.console, "error").await;
    assert!(error.contains(found), "{error}");
    scene.nodes[1].batch_execute("DROP INDEX late").await.unwrap();

    // And the retired leaf, which is no longer under its parent.
    scene.console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_state(&scene.console, State::Soaking).await;
    let sql = "ALTER TABLE shard_1.items ADD CONSTRAINT c CHECK (trap('retired') = 1)";
    let e = scene.nodes[0].batch_execute(sql).await.unwrap_err();
    assert_eq!(e.code().map(|c| c.code()), Some("42501"), "{e:?}");
    scene.console.does("ROLLBACK MOVE NOWAIT").await;
    until_state(&scene.console, State::Done).await;
    assert_eq!(scene.sprung(), Vec::<String>::new());
    assert_tidy(&scene.proxy.nodes, "at the end").await;
}

#[tokio::test]
async fn no_password_of_a_move_is_shown_or_logged() {
    let scene = Scene::new(None).await;
    let nodes = &scene.proxy.nodes.nodes;
    for node in nodes {
        let root = connect(node.port()).await;
        root.batch_execute("CREATE ROLE watcher LOGIN PASSWORD 'w' IN ROLE pg_monitor")
            .await
            .unwrap();
    }
    let mut watching = Vec::new();
    for node in nodes {
        let watcher = connect_as(node.port(), DATABASE, "watcher", "w").await.unwrap();
        watching.push(tokio::spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            loop {
                let sql = "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
                let Ok(rows) = watcher.query(sql, &[]).await else { return seen };
                seen.extend(rows.iter().filter_map(|r| r.get::<_, Option<String>>(0)));
            }
        }));
    }
    scene.console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_state(&scene.console, State::Soaking).await;
    let (mut passwords, mut rights) = (Vec::new(), Vec::new());
    for node in nodes {
        let root = connect(node.port()).await;
        for conninfo in texts(&root, "SELECT subconninfo FROM pg_subscription").await {
            assert!(conninfo.contains("user='pgshunt_move_1_rev'"), "{conninfo}");
            let (_, password) = conninfo.split_once("password='").unwrap();
            passwords.push(password.split_once('\'').unwrap().0.to_owned());
        }
        rights.extend(texts(
            &root,
            "SELECT concat_ws(' ', rolsuper, rolcreaterole, rolcreatedb, rolreplication) FROM pg_roles \
             WHERE starts_with(rolname, 'pgshunt_move_')",
        )
        .await);
        root.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'watcher'",
        )
        .await
        .unwrap();
    }
    assert!(
        passwords.iter().all(|p| p.len() >= 32) && passwords.len() == 1,
        "the way back has one"
    );
    assert_eq!(rights, ["f f f t"], "the one that publishes the way back");
    let mut seen = String::new();
    for watcher in watching {
        let texts = watcher.await.unwrap();
        assert!(
            texts.iter().any(|t| t.contains("pg_replication")),
            "the watcher saw something: {texts:?}"
        );
        seen.extend(texts);
    }
    seen.extend(nodes.iter().map(LocalNode::log));
    for secret in passwords.iter().map(String::as_str).chain(["password='"]) {
        assert!(!seen.contains(secret), "{secret}");
    }
    scene.console.does("FINISH MOVE").await;
    until_state(&scene.console, State::Done).await;
    assert_tidy(&scene.proxy.nodes, "the roles are gone too").await;
}

#[tokio::test]
async fn what_bears_a_reserved_name_and_is_somebody_elses_is_refused() {
    let options = ClusterOptions { in_use: 2, ..ClusterOptions::new(3) };
    let nodes = LocalCluster::start_with(&options).unwrap();
    let root = connect(nodes.nodes[0].port()).await;
    root.batch_execute(
        "CREATE ROLE mallory LOGIN PASSWORD 'm'; CREATE SCHEMA pgshunt AUTHORIZATION mallory",
    )
    .await
    .unwrap();
    let e = Server::start(nodes.config.clone()).await.map(drop).unwrap_err().to_string();
    assert!(e.contains("schema \"pgshunt\" is reserved"), "{e}");
    root.batch_execute("DROP SCHEMA pgshunt; DROP ROLE mallory").await.unwrap();

    let server = Server::start(nodes.config.clone()).await.unwrap();
    let p = Proxy { nodes, server };
    let (console, client) = (p.console().await, p.client().await);
    client.batch_execute("CREATE ROLE mallory LOGIN PASSWORD 'm'").await.unwrap();
    console.does("SET shard_count = 2").await;
    let second = connect(p.nodes.nodes[1].port()).await;
    let make = "CREATE TABLE items (k int PRIMARY KEY, v int) PARTITION BY HASH (k)";
    for (plant, dig_out) in [
        ("CREATE SCHEMA shard_2 AUTHORIZATION mallory", "DROP SCHEMA shard_2"),
        ("CREATE SCHEMA shard_2; GRANT CREATE ON SCHEMA shard_2 TO mallory", "DROP SCHEMA shard_2"),
    ] {
        second.batch_execute(plant).await.unwrap();
        let e = client.batch_execute(make).await.unwrap_err();
        let e = e.as_db_error().unwrap();
        assert_eq!(e.code().code(), "42939", "{plant}: {e:?}");
        assert!(e.hint().is_some_and(|h| h.contains("revoke CREATE")), "{e:?}");
        let left: i64 = value(&root, "SELECT count(*) FROM pgshunt.tables").await;
        assert_eq!(left, 0, "a refused statement changes nothing");
        second.batch_execute(dig_out).await.unwrap();
        // Shards are numbered anew, and the sequence has gone on.
        root.batch_execute("ALTER SEQUENCE pgshunt.shards_shard_id_seq RESTART").await.unwrap();
    }
    client.batch_execute(make).await.unwrap();

    // Names of a move's own objects on the node that publishes.
    let mut moves = 0;
    for (plant, words, dig_out) in [
        (
            "CREATE SCHEMA pgshunt2; ALTER SCHEMA pgshunt RENAME TO pgshunt3; \
             ALTER SCHEMA pgshunt2 RENAME TO pgshunt; ALTER SCHEMA pgshunt OWNER TO mallory",
            "schema \"pgshunt\" is reserved for pgshunt",
            "DROP SCHEMA pgshunt; ALTER SCHEMA pgshunt3 RENAME TO pgshunt",
        ),
        (
            "CREATE TABLE mine (a int); ALTER TABLE mine OWNER TO mallory; \
             CREATE PUBLICATION pgshunt_move_{n}_fwd FOR TABLE mine; \
             GRANT CREATE ON DATABASE app TO mallory; \
             ALTER PUBLICATION pgshunt_move_{n}_fwd OWNER TO mallory",
            "publication pgshunt_move_{n}_fwd is mallory's, and names",
            "DROP TABLE mine; REVOKE CREATE ON DATABASE app FROM mallory",
        ),
        (
            "SELECT pg_create_logical_replication_slot('pgshunt_move_{n}_fwd', 'test_decoding')",
            "replication slot pgshunt_move_{n}_fwd is of another kind",
            "SELECT 1",
        ),
        (
            "CREATE ROLE pgshunt_move_{n}_fwd LOGIN; CREATE TABLE mine (a int); \
             ALTER TABLE mine OWNER TO pgshunt_move_{n}_fwd",
            "cannot be dropped because some objects depend on it",
            "DROP TABLE mine",
        ),
    ] {
        moves += 1;
        let n = moves.to_string();
        let fill = |s: &str| s.replace("{n}", &n);
        // The schema of moves is asked about on both nodes; home's is the catalog's own.
        let where_to = if plant.contains("pgshunt2") { &second } else { &root };
        if plant.contains("pgshunt2") {
            second.batch_execute("CREATE SCHEMA IF NOT EXISTS pgshunt").await.unwrap();
        }
        where_to.batch_execute(&fill(plant)).await.unwrap_or_else(|e| panic!("{plant}: {e:?}"));
        console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
        let said = until_move(&console, "error", |e| e.contains(&fill(words))).await;
        assert!(said.contains(&fill(words)));
        where_to.batch_execute(&fill(dig_out)).await.unwrap();
        until_state(&console, State::Failed).await;
    }
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_state(&console, State::Soaking).await;
    console.does("FINISH MOVE").await;
    until_state(&console, State::Done).await;
}

#[tokio::test]
async fn a_table_whose_only_key_is_deferrable_takes_writes_while_it_moves() {
    let p = Proxy::start(2, 2).await;
    let (console, client) = (p.console().await, p.client().await);
    console.does("SET shard_count = 2").await;
    client
        .batch_execute(
            "CREATE TABLE items (k int, v int, PRIMARY KEY (k) DEFERRABLE) PARTITION BY HASH (k)",
        )
        .await
        .unwrap();
    for k in 0..20 {
        client.execute("INSERT INTO items VALUES ($1, 0)", &[&k]).await.unwrap();
    }
    let write = async |case: &str| {
        for k in 0..20 {
            let sql = "UPDATE items SET v = v + 1 WHERE k = $1";
            let done = client.execute(sql, &[&k]).await;
            assert_eq!(done.unwrap_or_else(|e| panic!("{case}: {e:?}")), 1, "{case}");
        }
    };
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    let mut rounds = 2;
    while last_move(&console, "state").await != State::Soaking.name() {
        write("while it is copied").await;
        rounds += 1;
    }
    assert!(rounds > 2, "nobody wrote while the shard moved");
    write("while it soaks").await;
    console.does("ROLLBACK MOVE NOWAIT").await;
    until_state(&console, State::Done).await;
    write("afterwards").await;
    assert_eq!(value::<i64>(&client, "SELECT sum(v) FROM items").await, rounds * 20);
    assert_tidy(&p.nodes, "at the end").await;
}
