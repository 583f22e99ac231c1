//! Two roles before one table, through pgshunt and on a plain PostgreSQL: each sees and may the same,
//! wherever the rows are, and after they have moved.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::*;

const ROLES: [&str; 3] = ["ann", "bob", "eve"];

/// A session of each role, and one of a superuser, on either side.
struct Sides {
    shunt: Vec<(&'static str, Client)>,
    plain: Vec<(&'static str, Client)>,
    plain_port: u16,
    port: u16,
}

impl Sides {
    async fn connect(port: u16, plain_port: u16) -> Self {
        let mut sides = Self { shunt: Vec::new(), plain: Vec::new(), plain_port, port };
        for (user, password) in ROLES.iter().map(|r| (*r, *r)).chain([(SUPERUSER, PASSWORD)]) {
            let log_in = async |port| connect_as(port, DATABASE, user, password).await.unwrap();
            sides.shunt.push((user, log_in(port).await));
            sides.plain.push((user, log_in(plain_port).await));
        }
        sides
    }

    /// New sessions: a login tells whether the role may come in.
    async fn again(&mut self) {
        *self = Self::connect(self.port, self.plain_port).await;
    }

    /// A role's sessions.
    fn of(&self, user: &str) -> (&Client, &Client) {
        let find =
            |all: &'_ [(&str, Client)]| all.iter().position(|(name, _)| *name == user).unwrap();
        (&self.shunt[find(&self.shunt)].1, &self.plain[find(&self.plain)].1)
    }

    /// The same statement by the same role on both sides, and what came of it.
    async fn same(&self, user: &str, sql: &str) -> Result<Vec<String>, String> {
        let (ours, theirs) = self.of(user);
        let (ours, theirs) = (outcome(ours, sql).await, outcome(theirs, sql).await);
        assert_eq!(ours, theirs, "{user}: {sql}");
        ours
    }

    /// The same by the extended protocol.
    async fn same_prepared(&self, user: &str, sql: &str, id: i32) -> Result<usize, String> {
        let run = async |client: &Client| match client.query(sql, &[&id]).await {
            Ok(rows) => Ok(rows.len()),
            Err(e) => Err(e.as_db_error().unwrap_or_else(|| panic!("{e:?}")).to_string()),
        };
        let (ours, theirs) = self.of(user);
        let (ours, theirs) = (run(ours).await, run(theirs).await);
        assert_eq!(ours, theirs, "{user}: {sql} {id}");
        ours
    }
}

/// The rows, sorted, or the error.
async fn outcome(client: &Client, sql: &str) -> Result<Vec<String>, String> {
    match client.simple_query(sql).await {
        Ok(messages) => {
            let mut rows: Vec<String> = messages
                .iter()
                .map(|m| match m {
                    SimpleQueryMessage::Row(r) => (0..r.len())
                        .map(|i| r.get(i).unwrap_or("NULL"))
                        .collect::<Vec<_>>()
                        .join("|"),
                    SimpleQueryMessage::CommandComplete(n) => format!("{n} rows"),
                    _ => String::new(),
                })
                .collect();
            rows.sort_unstable();
            Ok(rows)
        }
        Err(e) => {
            let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}"));
            Err(format!("{} {}", e.code().code(), e.message()))
        }
    }
}

/// Everything the three roles may and may not do.
async fn all_alike(sides: &Sides, round: i32) {
    for user in ["ann", "bob", "eve", SUPERUSER] {
        sides.same(user, "SELECT id, who, v FROM notes").await.ok();
        sides.same(user, "SELECT count(*), min(id) FROM notes").await.ok();
        for id in 1..=12 {
            sides.same(user, &format!("SELECT who, v FROM notes WHERE id = {id}")).await.ok();
            let update = format!("UPDATE notes SET v = {round} WHERE id = {id}");
            sides.same(user, &update).await.ok();
        }
        for (n, who) in (0..).zip(["ann", "bob", "eve"]) {
            let id = 1000 * round + 100 * n + user.len() as i32 + i32::from(user.as_bytes()[0]);
            let insert = format!("INSERT INTO notes VALUES ({id}, '{who}', 1, 'secret')");
            sides.same(user, &insert).await.ok();
        }
        for sql in [
            "SELECT secret FROM notes WHERE id = 3",
            "SELECT secret FROM notes",
            "SELECT * FROM notes WHERE id = 4",
            "UPDATE notes SET who = 'eve' WHERE id = 5",
            "DELETE FROM notes WHERE id = 6 AND false",
        ] {
            sides.same(user, sql).await.ok();
        }
    }
    for user in ROLES {
        for id in 1..=6 {
            for sql in [
                "SELECT who FROM notes WHERE id = $1",
                "UPDATE notes SET v = v + 1 WHERE id = $1",
                "SELECT id FROM notes WHERE v >= $1",
            ] {
                sides.same_prepared(user, sql, id).await.ok();
            }
        }
    }
    // One who may be any of them, on connections that are lent to others in turn.
    for role in ROLES {
        for sql in [
            &format!("SET ROLE {role}"),
            "SELECT id, who FROM notes",
            "SELECT who FROM notes WHERE id = 9",
            "BEGIN",
            "UPDATE notes SET v = 3 WHERE id = 10",
            "ROLLBACK",
            "RESET ROLE",
            "SELECT count(*) FROM notes",
        ] {
            sides.same(SUPERUSER, sql).await.ok();
        }
    }
    let rows = sides.same("ann", "SELECT id FROM notes").await.unwrap();
    assert!(rows.len() > 20, "{rows:?}");
    let denied = Err("42501 permission denied for table notes".to_owned());
    for sql in [
        "SELECT id FROM notes WHERE id = 7",
        "SELECT id FROM notes",
        "UPDATE notes SET v = 1 WHERE id = 7",
        "INSERT INTO notes VALUES (7777, 'eve', 1, 'x')",
        "TRUNCATE notes",
    ] {
        assert_eq!(sides.same("eve", sql).await, denied, "{sql}");
    }
    let copied = sides.of("eve").0.copy_out("COPY (SELECT id FROM notes WHERE id = 7) TO STDOUT");
    let e = copied.await.err().expect("eve may not copy");
    assert_eq!(e.code().unwrap().code(), "42501");
    let hidden = sides.same("bob", "SELECT id FROM notes WHERE id = 2").await.unwrap();
    assert_eq!(hidden, ["", "0 rows"], "it is ann's");
}

async fn finish(console: &Console) {
    console.does("FINISH MOVE").await;
    wait_for("the move to end", async || {
        let states = console.column("SHOW MOVES", "state").await;
        states.iter().all(|s| s == "done").then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_role_sees_its_rows_wherever_they_are() {
    let p = Proxy::start(4, 2).await;
    let (new, plain) = (&p.nodes.nodes[2], &p.nodes.nodes[3]);
    let console = p.console().await;
    console.does("SET shard_count = 4").await;
    let roots = [p.client().await, connect(plain.port()).await];
    let both = async |sql: &str| {
        for root in &roots {
            root.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    };
    for role in ROLES {
        both(&format!("CREATE ROLE {role} LOGIN PASSWORD '{role}'")).await;
    }
    both("CREATE ROLE writers").await;
    both("GRANT writers TO ann, bob").await;
    let columns = "CREATE TABLE notes (id int PRIMARY KEY, who text, v int, secret text)";
    roots[0].batch_execute(&format!("{columns} PARTITION BY HASH (id)")).await.unwrap();
    roots[1].batch_execute(columns).await.unwrap();
    for id in 1..=60 {
        let who = if id % 2 == 0 { "ann" } else { "bob" };
        both(&format!("INSERT INTO notes VALUES ({id}, '{who}', 0, 's{id}')")).await;
    }
    for sql in [
        "GRANT SELECT (id, who, v), INSERT ON notes TO writers",
        "GRANT UPDATE (v) ON notes TO ann, bob",
        "CREATE POLICY own ON notes TO writers USING (who = current_user)",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
    ] {
        both(sql).await;
    }
    let mut sides = Sides::connect(p.port(), plain.port()).await;
    all_alike(&sides, 1).await;
    // The nodes see who it is.
    for node in &p.nodes.nodes[..2] {
        let sql = "SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename) FROM pg_stat_activity \
            WHERE usename IN ('ann', 'bob')";
        assert_eq!(value::<String>(&connect(node.port()).await, sql).await, "ann bob");
    }

    // Away and back; then to a node that has known none of them.
    console.does("MOVE SHARD 1 TO node2").await;
    finish(&console).await;
    all_alike(&sides, 2).await;
    both("ALTER ROLE ann SET work_mem = '8MB'").await;
    both("ALTER DATABASE app SET lock_timeout = '77s'").await;
    console.does(&format!("ADD NODE node3 '127.0.0.1:{}'", new.port())).await;
    for shard in [1, 2] {
        console.does(&format!("MOVE SHARD {shard} TO node3")).await;
        finish(&console).await;
    }
    let on = console.column("SHOW SHARDS", "node").await;
    assert_eq!(on, ["node3", "node3", "node1", "node2"]);
    all_alike(&sides, 3).await;
    sides.again().await;
    all_alike(&sides, 4).await;
    let ann = connect_as(new.port(), DATABASE, "ann", "ann").await.unwrap();
    let says = "SELECT current_setting('work_mem') || current_setting('lock_timeout')";
    assert_eq!(value::<String>(&ann, says).await, "8MB77s");
    // A leaf shows no more than its table.
    let (all, leaf): (i64, i64) = (
        value(&ann, "SELECT count(*) FROM notes").await,
        value(
            &ann,
            "SELECT (SELECT count(*) FROM shard_1.notes) + (SELECT count(*) FROM shard_2.notes)",
        )
        .await,
    );
    assert_eq!(all, leaf);
    let foreign = "SELECT count(*) FROM shard_1.notes WHERE who <> 'ann'";
    assert_eq!(value::<i64>(&ann, foreign).await, 0);

    // Taken away again, everywhere.
    both("REVOKE writers FROM bob").await;
    both("REVOKE UPDATE (v) ON notes FROM ann").await;
    sides.again().await;
    for sql in ["SELECT id FROM notes WHERE id = 3", "UPDATE notes SET v = 5 WHERE id = 2"] {
        for user in ["ann", "bob"] {
            sides.same(user, sql).await.ok();
        }
    }
    let e = sides.same("bob", "SELECT id FROM notes").await.unwrap_err();
    assert_eq!(e, "42501 permission denied for table notes");
    both("DROP POLICY own ON notes").await;
    assert_eq!(sides.same("ann", "SELECT id FROM notes").await.unwrap().len(), 2, "none is hers");
    both("ALTER TABLE notes DISABLE ROW LEVEL SECURITY").await;
    assert!(sides.same("ann", "SELECT id FROM notes").await.unwrap().len() > 60);
}

#[tokio::test]
async fn what_is_granted_on_the_home_nodes_own_stays_in_its_transaction() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    root.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'a'").await.unwrap();
    root.batch_execute("CREATE TABLE items (id int PRIMARY KEY, n int) PARTITION BY HASH (id)")
        .await
        .unwrap();
    // As a migration does it.
    root.batch_execute(
        "BEGIN; CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO ann; \
         ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO ann; \
         CREATE TABLE app.local (id int); GRANT INSERT ON app.local TO ann; \
         GRANT SELECT ON ALL TABLES IN SCHEMA app TO ann; \
         CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         REVOKE EXECUTE ON FUNCTION app.f() FROM PUBLIC; COMMIT",
    )
    .await
    .unwrap();
    root.batch_execute("DO $$BEGIN GRANT UPDATE ON app.local TO ann; END$$").await.unwrap();
    let ann = connect_as(p.port(), DATABASE, "ann", "a").await.unwrap();
    ann.batch_execute("INSERT INTO app.local VALUES (1)").await.unwrap();
    ann.batch_execute("UPDATE app.local SET id = 2").await.unwrap();
    assert_eq!(value::<i64>(&ann, "SELECT count(*) FROM app.local").await, 1);

    // What is on all nodes is changed on all, alone.
    let code = async |sql: &str| {
        let e = root.batch_execute(sql).await.expect_err(sql);
        let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}")).clone();
        assert!(e.hint().is_some(), "{sql}: {e:?}");
        e.code().code().to_owned()
    };
    root.batch_execute("BEGIN").await.unwrap();
    assert_eq!(code("GRANT SELECT ON items TO ann").await, "0A000");
    root.batch_execute("ROLLBACK").await.unwrap();
    for sql in [
        "GRANT SELECT ON items TO ann; GRANT INSERT ON items TO ann",
        "DO $$BEGIN GRANT SELECT ON ALL TABLES IN SCHEMA public TO ann; END$$",
        "DO $$BEGIN EXECUTE format('GRANT SELECT ON %I TO ann', 'it' || 'ems'); END$$",
        "DO $$BEGIN GRANT pg_monitor TO ann; END$$",
        "DO $$BEGIN DROP OWNED BY ann; END$$",
        "DO $$BEGIN /* grant */ GRANT SELECT ON items TO/**/ann; END$$",
        "DO $$BEGIN EXECUTE 'REVOKE ' || 'SELECT ON items' || ' FROM ann'; REVOKE x FROM y; END$$",
        "GRANT SELECT ON shard_1.items TO ann",
        "GRANT CREATE ON SCHEMA shard_1 TO ann",
        "REVOKE USAGE ON SCHEMA shard_2 FROM PUBLIC",
    ] {
        assert_eq!(code(sql).await, "0A000", "{sql}");
    }
    root.batch_execute("DO $$BEGIN PERFORM 'no grant is given'; END$$").await.unwrap();
    // However often: each is looked at once.
    let many = format!("DO $$BEGIN PERFORM '{}'; END$$", "grant ".repeat(30_000));
    let done = tokio::time::timeout(PATIENCE, root.batch_execute(&many)).await;
    done.expect("it is read at once").unwrap();
    root.execute("GRANT SELECT (id) ON items, app.local TO ann", &[]).await.unwrap();
    assert_eq!(value::<i64>(&ann, "SELECT count(id) FROM items").await, 0);
    let e = ann.simple_query("SELECT n FROM items").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "42501");

    // From another database, too.
    let other = connect_as(p.port(), "postgres", SUPERUSER, PASSWORD).await.unwrap();
    other.batch_execute("REVOKE CONNECT ON DATABASE app FROM PUBLIC").await.unwrap();
    other.batch_execute("ALTER DATABASE app SET work_mem = '11MB'").await.unwrap();
    let e = other.batch_execute("ALTER DATABASE app SET search_path = app").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "0A000");
    other.batch_execute("CREATE DATABASE free").await.unwrap();
    other.batch_execute("ALTER DATABASE free SET search_path = app").await.unwrap();
    for node in &p.nodes.nodes {
        let says = "SELECT concat_ws(' ', has_database_privilege('ann', 'app', 'CONNECT'), \
            (SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase \
             WHERE datname = 'app'))";
        assert_eq!(value::<String>(&connect(node.port()).await, says).await, "f {work_mem=11MB}");
    }
    // PostgreSQL takes back what was granted on all databases, from whichever this is said.
    other.batch_execute("CREATE ROLE carl").await.unwrap();
    other.batch_execute("GRANT CONNECT ON DATABASE app TO carl").await.unwrap();
    other.batch_execute("DROP OWNED BY carl").await.unwrap();
    other.batch_execute("DROP ROLE carl").await.unwrap();
    // Although a server connection of hers is there still.
    let e = connect_as(p.port(), DATABASE, "ann", "a").await.unwrap_err();
    assert_eq!(e.as_db_error().unwrap().message(), "permission denied for database \"app\"");
    assert_eq!(e.code().unwrap().code(), "42501");
    other.batch_execute("GRANT CONNECT ON DATABASE app TO ann").await.unwrap();
    connect_as(p.port(), DATABASE, "ann", "a").await.unwrap();
}
