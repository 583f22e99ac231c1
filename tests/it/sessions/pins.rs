//! What PostgreSQL keeps for a connection and nobody can put elsewhere: the session keeps its server
//! connection for as long as it is there, and not longer.

use super::*;

/// Two clients and a server connection for each.
async fn two() -> (Proxy, Client, Client) {
    let proxy = shared(2).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    (proxy, a, b)
}

/// `a` leaves something, is pinned for this reason, and is not any more when that has ended.
async fn pinned_until(proxy: &Proxy, a: &Client, left: &str, why: &str, ended: &str) {
    does(a, left).await;
    assert_eq!(why_pinned(proxy, why).await, why, "after {left}");
    let held = pid(a).await;
    assert_eq!(pid(a).await, held);
    does(a, ended).await;
    assert_eq!(why_pinned(proxy, "").await, "", "after {left}; {ended}");
}

/// What binds the first client, once it is what it should be: SHOW CLIENTS may be a moment late.
async fn why_pinned(proxy: &Proxy, wanted: &str) -> String {
    let start = std::time::Instant::now();
    loop {
        let now = pinned_by(proxy).await.swap_remove(0);
        if now == wanted || start.elapsed() > PATIENCE {
            return now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_session_is_unpinned_when_its_state_is_gone() {
    let (proxy, a, b) = two().await;
    does(
        &a,
        "CREATE FUNCTION take(n int) RETURNS void LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_advisory_lock(n); END $$;
              CREATE FUNCTION drop_it(n int) RETURNS bool LANGUAGE sql AS
                'SELECT pg_advisory_unlock(n)';
              CREATE FUNCTION keep(what text) RETURNS void LANGUAGE plpgsql AS $$
                BEGIN EXECUTE what; END $$;
              CREATE TABLE plain (n int)",
    )
    .await;
    for (left, why, ended) in [
        ("CREATE TEMP TABLE x (n int)", "a temporary table", "DROP TABLE x"),
        ("CREATE TEMP TABLE x (n int)", "a temporary table", "DISCARD TEMP"),
        ("CREATE TEMP TABLE x (n int)", "a temporary table", "DISCARD ALL"),
        ("CREATE TABLE pg_temp.x (n int)", "a temporary table", "DROP TABLE pg_temp.x"),
        ("CREATE TEMP TABLE x AS SELECT 1 AS n", "a temporary table", "DROP TABLE x"),
        ("SELECT 1 AS n INTO TEMP x", "a temporary table", "DROP TABLE x"),
        ("CREATE TEMP VIEW x AS SELECT 1", "a temporary view", "DROP VIEW x"),
        ("CREATE TEMP SEQUENCE x", "a temporary sequence", "DROP SEQUENCE x"),
        (
            "CREATE FUNCTION pg_temp.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "a temporary object",
            "DROP FUNCTION pg_temp.x",
        ),
        ("CREATE TYPE pg_temp.x AS ENUM ('a')", "a temporary object", "DROP TYPE pg_temp.x"),
        ("SELECT keep('CREATE TEMP TABLE x ()')", "a temporary object", "DROP TABLE x"),
        ("DO 'BEGIN CREATE TEMP TABLE x (); END'", "a temporary object", "DROP TABLE x"),
        (
            "DO 'BEGIN CREATE TEMP TABLE x (); END'",
            "a temporary object",
            "SELECT keep('DROP TABLE x')",
        ),
        ("SELECT pg_advisory_lock(1)", "a session advisory lock", "SELECT pg_advisory_unlock(1)"),
        (
            "SELECT pg_advisory_lock(1)",
            "a session advisory lock",
            "SELECT pg_advisory_unlock_all()",
        ),
        (
            "SELECT pg_advisory_lock_shared(1, 2)",
            "a session advisory lock",
            "SELECT pg_advisory_unlock_shared(1, 2)",
        ),
        ("SELECT pg_try_advisory_lock(1)", "a session advisory lock", "SELECT drop_it(1)"),
        ("SELECT take(1)", "a session advisory lock", "SELECT drop_it(1)"),
        ("DO 'BEGIN PERFORM take(1); END'", "a session advisory lock", "DISCARD ALL"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor WITH HOLD", "CLOSE c"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor WITH HOLD", "CLOSE ALL"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "a cursor WITH HOLD", "CLOSE c"),
        ("PREPARE x AS SELECT 1", "PREPARE", "DEALLOCATE x"),
        ("PREPARE x AS SELECT 1", "PREPARE", "DEALLOCATE ALL"),
        ("SELECT keep('PREPARE x AS SELECT 1')", "PREPARE", "DEALLOCATE x"),
        ("SELECT keep('LISTEN x')", "LISTEN", "SELECT keep('UNLISTEN x')"),
    ] {
        println!("{left}");
        pinned_until(&proxy, &a, left, why, ended).await;
        does(&b, "SELECT 1").await;
    }
}

#[tokio::test]
async fn what_has_left_nothing_pins_nobody() {
    let (proxy, a, b) = two_on_one().await;
    does(&a, "CREATE FUNCTION harmless(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1'").await;
    for statement in [
        "BEGIN; CREATE TEMP TABLE x (n int); ROLLBACK",
        "BEGIN; CREATE TEMP TABLE x (n int) ON COMMIT DROP; COMMIT",
        "CREATE TEMP TABLE x (n int); DROP TABLE x",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)",
        "PREPARE x AS SELECT 1; EXECUTE x; DEALLOCATE x",
        "SELECT harmless(1)",
        "DO 'BEGIN PERFORM harmless(1); END'",
    ] {
        println!("{statement}");
        does(&a, statement).await;
        // On the one connection there is.
        does(&b, "SELECT 1").await;
        assert_eq!(pinned_by(&proxy).await, ["", ""], "after {statement}");
    }
    // Held by nobody, so tried in vain by nobody either.
    let other = connect(proxy.nodes.nodes[0].port()).await;
    does(&other, "SELECT pg_advisory_lock(7)").await;
    assert!(!value::<bool>(&a, "SELECT pg_try_advisory_lock(7)").await);
    does(&b, "SELECT 1").await;
    assert_eq!(pinned_by(&proxy).await, ["", ""]);
}

#[tokio::test]
async fn an_advisory_lock_outlives_the_error_behind_it() {
    let (proxy, a, b) = two().await;
    let lock = "a session advisory lock";
    for taking in [
        "SELECT pg_advisory_lock(1), 1/(relpages - relpages) FROM pg_class",
        "SELECT pg_advisory_lock(1); SELECT 1/0",
        "DO 'BEGIN PERFORM pg_advisory_lock(1); PERFORM 1/0; END'",
    ] {
        assert_eq!(fails(&a, taking).await, "22012");
        assert_eq!(why_pinned(&proxy, lock).await, lock, "{taking}");
        assert!(!value::<bool>(&b, "SELECT pg_try_advisory_lock(1)").await, "it is the other's");
        does(&a, "SELECT pg_advisory_unlock_all()").await;
        assert_eq!(why_pinned(&proxy, "").await, "", "{taking}");
    }
    does(&a, "BEGIN; SELECT pg_advisory_lock(1); ROLLBACK").await;
    assert_eq!(why_pinned(&proxy, lock).await, lock);
    assert!(!value::<bool>(&b, "SELECT pg_try_advisory_lock(1)").await);
    assert!(value::<bool>(&a, "SELECT pg_advisory_unlock(1)").await);
    assert!(value::<bool>(&b, "SELECT pg_try_advisory_lock(1)").await);
}

#[tokio::test]
async fn temporary_tables_are_their_sessions_own() {
    let (_proxy, a, b) = two().await;
    does(&a, "CREATE TEMP TABLE x AS SELECT 'a' AS who").await;
    assert_eq!(fails(&b, "SELECT who FROM x").await, "42P01");
    does(&b, "CREATE TEMP TABLE x AS SELECT 'b' AS who").await;
    for _ in 0..3 {
        assert_eq!(value::<String>(&a, "SELECT who FROM x").await, "a");
        assert_eq!(value::<String>(&b, "SELECT who FROM x").await, "b");
    }
    does(&a, "DISCARD TEMP").await;
    assert_eq!(fails(&a, "SELECT who FROM x").await, "42P01");
    assert_eq!(value::<String>(&b, "SELECT who FROM x").await, "b");
}

#[tokio::test]
async fn cursors_and_statements_of_sql_are_their_sessions_own() {
    let (_proxy, a, b) = two().await;
    does(&a, "DECLARE c CURSOR WITH HOLD FOR SELECT 'a' FROM generate_series(1, 3)").await;
    assert_eq!(fails(&b, "FETCH c").await, "34000");
    does(&b, "DECLARE c CURSOR WITH HOLD FOR SELECT 'b' FROM generate_series(1, 3)").await;
    does(&a, "PREPARE p AS SELECT 'a'").await;
    does(&b, "PREPARE p AS SELECT 'b'").await;
    for _ in 0..3 {
        for (client, own) in [(&a, "a"), (&b, "b")] {
            assert_eq!(texts(client, "FETCH c; EXECUTE p").await, [own, own]);
        }
    }
    does(&a, "CLOSE c; DEALLOCATE p").await;
    assert_eq!(fails(&a, "EXECUTE p").await, "26000");
    does(&b, "EXECUTE p").await;
}

#[tokio::test]
async fn a_library_that_was_loaded_is_not_left_to_others() {
    let (proxy, a, _b) = two().await;
    does(&a, "LOAD 'auto_explain'").await;
    let held = pid(&a).await;
    assert_eq!(why_pinned(&proxy, "LOAD").await, "LOAD");
    does(&a, "SELECT 1; DISCARD TEMP").await;
    assert_eq!(why_pinned(&proxy, "LOAD").await, "LOAD");
    does(&a, "DISCARD ALL").await;
    assert_eq!(why_pinned(&proxy, "").await, "");
    assert_ne!(pid(&a).await, held, "its connection was closed");
}

/// Only what may have made a temporary table makes an unqualified name unclear.
#[tokio::test]
async fn what_binds_a_session_takes_no_table_away_from_it() {
    let p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 2").await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE d (t int, v int) PARTITION BY HASH (t)").await.unwrap();
    for t in 0..20 {
        client.batch_execute(&format!("INSERT INTO d VALUES ({t}, 0)")).await.unwrap();
    }
    let some = "SELECT min(t) FROM d";
    let near: i32 = value(&connect(p.nodes.nodes[0].port()).await, some).await;
    let far: i32 = value(&connect(p.nodes.nodes[1].port()).await, some).await;
    for (binds, why) in [
        ("SELECT pg_advisory_lock(1)", "a session advisory lock"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "a cursor WITH HOLD"),
        ("CREATE TEMP TABLE tt (a int)", "temporary"),
    ] {
        let client = p.client().await;
        client.batch_execute(binds).await.unwrap();
        let update = |t| format!("UPDATE d SET v = v + 1 WHERE t = {t}");
        for t in [far, near] {
            let done = client.batch_execute(&update(t)).await;
            match why {
                "temporary" => {
                    let e = done.expect_err(binds);
                    let hint = e.as_db_error().unwrap().hint().unwrap().to_owned();
                    assert!(hint.contains("write the schema"), "{binds}: {hint}");
                }
                // It keeps its connection, and uses another one beside it.
                _ => done.unwrap_or_else(|e| panic!("{binds}: {e:?}")),
            }
        }
        let console = p.console().await;
        let pinned = console.lines("SHOW CLIENTS").await;
        let says = |line: &Vec<(String, Option<String>)>| {
            line.iter().any(|(_, v)| v.as_deref().is_some_and(|v| v.contains(why)))
        };
        assert!(pinned.iter().any(says), "{binds}: {pinned:?}");
        // Behind the lock, the statement or the cursor comes a table that hides the other one.
        client.batch_execute("CREATE TEMP TABLE d (t int, v int)").await.unwrap();
        let e = client.batch_execute(&update(near)).await.expect_err(binds);
        assert_eq!(e.code().unwrap().code(), "0A000", "{binds}");
    }
}
