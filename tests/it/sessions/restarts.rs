//! What happens to a session when its plans age and its server connections die: it goes on unseen
//! where nothing was sent yet, and is told the truth where something was.

use pgshunt::config::Config;

use super::*;

async fn run(client: &Client, s: &tokio_postgres::Statement) -> Result<usize, String> {
    match client.query(s, &[]).await {
        Ok(rows) => Ok(rows.first().map_or(0, |r| r.len())),
        Err(e) => Err(e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned())),
    }
}

/// The client knows the columns: like PostgreSQL's, its statement fails when they have changed.
#[tokio::test]
async fn a_cached_plan_whose_result_changes_fails_as_in_postgresql() {
    let (_proxy, a, b) = two_on_one().await;
    does(&a, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let all = a.prepare("SELECT * FROM t").await.unwrap();
    let one = a.prepare("SELECT n FROM t").await.unwrap();
    assert_eq!((run(&a, &all).await, run(&a, &one).await), (Ok(1), Ok(1)));
    does(&b, "ALTER TABLE t ADD m int").await;
    assert_eq!(run(&a, &all).await, Err("0A000".into()), "it was told one column");
    assert_eq!(run(&a, &one).await, Ok(1), "its columns are the same");
    let anew = a.prepare("SELECT * FROM t").await.unwrap();
    assert_eq!(run(&a, &anew).await, Ok(2));
    // Within a transaction too.
    does(&a, "BEGIN").await;
    does(&b, "ALTER TABLE t ADD o int").await;
    assert_eq!(run(&a, &anew).await, Err("0A000".into()));
    assert_eq!(fails(&a, "SELECT 1").await, "25P02");
    does(&a, "ROLLBACK").await;
}

/// A client that does not go by columns it was told: Bind and Execute of a named statement.
#[tokio::test]
async fn a_cached_plan_nobody_has_been_told_of_is_made_anew_unseen() {
    use crate::protocol::talk::{Talk, Until};
    let (proxy, _a, b) = two_on_one().await;
    does(&b, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let port = proxy.port();
    let open = tokio::task::spawn_blocking(move || {
        let mut t = Talk::open(port, &[]);
        t.say("Parse s SELECT * FROM t | Bind - s | Execute - | Sync");
        let heard = t.hear(Until::Ready(1));
        assert_eq!(
            heard,
            ["ParseComplete", "BindComplete", "Data 1", "Complete SELECT 1", "Ready I"]
        );
        t
    });
    let mut t = open.await.unwrap();
    does(&b, "ALTER TABLE t ADD m int DEFAULT 2").await;
    let after = tokio::task::spawn_blocking(move || {
        t.say("Bind - s | Execute - | Sync");
        let heard = t.hear(Until::Ready(1));
        assert_eq!(heard, ["BindComplete", "Data 1 2", "Complete SELECT 1", "Ready I"]);
        t.say("Parse - SELECT * FROM t | Bind - - | Execute - | Sync");
        let heard = t.hear(Until::Ready(1));
        assert_eq!(
            heard,
            ["ParseComplete", "BindComplete", "Data 1 2", "Complete SELECT 1", "Ready I"]
        );
    });
    after.await.unwrap();
}

#[tokio::test]
async fn statements_that_gave_way_to_others_are_prepared_again() {
    let proxy = Proxy::start_with(1, 1, |c: &mut Config| {
        c.pool.size = 1;
        c.pool.max_prepared = 2;
        c.server.workers = 1;
    })
    .await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    // Asked by its name the list is the client's own; that of the server is behind a view.
    does(&b, "CREATE VIEW kept AS SELECT * FROM pg_prepared_statements").await;
    let mut of = Vec::new();
    for n in 0..6 {
        of.push(a.prepare(&format!("SELECT {n}::int")).await.unwrap());
    }
    for _ in 0..3 {
        for (n, s) in of.iter().enumerate() {
            assert_eq!(a.query_one(s, &[]).await.unwrap().get::<_, i32>(0), n as i32);
        }
        let kept: i64 = value(&b, "SELECT count(*) FROM kept").await;
        assert!(kept <= 3, "{kept} are kept, that of the question among them");
    }
}

/// Whatever an idle server connection dies of, its next client does not notice.
#[tokio::test]
async fn an_idle_server_connection_that_dies_is_replaced_unseen() {
    let (proxy, a, b) = two_on_one().await;
    let node = connect(proxy.nodes.nodes[0].port()).await;
    let s = a.prepare("SELECT 7").await.unwrap();
    does(&a, "SET work_mem = '1MB'").await;
    for _ in 0..5 {
        let held = pid(&b).await;
        assert!(value::<bool>(&node, &format!("SELECT pg_terminate_backend({held}, 10000)")).await);
        assert_eq!(a.query_one(&s, &[]).await.unwrap().get::<_, i32>(0), 7);
        assert_eq!(show(&a, "work_mem").await, "1MB");
        assert_eq!(show(&b, "work_mem").await, "4MB");
    }
    does(&node, "ALTER SYSTEM SET idle_session_timeout = '200ms'").await;
    does(&node, "SELECT pg_reload_conf()").await;
    wait_for("the server process to have heard of it", async || {
        (show(&b, "idle_session_timeout").await == "200ms").then_some(())
    })
    .await;
    for _ in 0..5 {
        let held = pid(&b).await;
        let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {held}");
        wait_for("the server to end an idle connection", async || {
            // The one that asks is ended too when it has been idle for so long.
            let port = proxy.nodes.nodes[0].port();
            let asks = connect_as(port, DATABASE, SUPERUSER, PASSWORD).await.ok()?;
            let row = asks.query_one(&gone, &[]).await.ok()?;
            (row.get::<_, i64>(0) == 0).then_some(())
        })
        .await;
        assert_eq!(a.query_one(&s, &[]).await.unwrap().get::<_, i32>(0), 7);
    }
}

#[tokio::test]
async fn a_statement_under_way_when_its_connection_dies_is_told_the_truth() {
    let proxy = shared(2).await;
    let (a, b, c) = (proxy.client().await, proxy.client().await, proxy.client().await);
    let node = connect(proxy.nodes.nodes[0].port()).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(77)' AND pid <> pg_backend_pid()";
    let sleeps = a.batch_execute("SELECT pg_sleep(77)");
    let kills =
        wait_for("the statement to run", async || node.query(kill, &[]).await.unwrap().pop());
    let (died, _) = tokio::join!(sleeps, kills);
    assert_eq!(died.unwrap_err().code().unwrap().code(), "57P01");
    // Within a transaction the next statement must not pass for a part of it.
    does(&b, "BEGIN; CREATE TABLE lost (n int)").await;
    let held = pid(&b).await;
    assert!(value::<bool>(&node, &format!("SELECT pg_terminate_backend({held}, 10000)")).await);
    let e = b.batch_execute("INSERT INTO lost VALUES (1)").await.unwrap_err();
    let code = e.code().map(|c| c.code().to_owned());
    assert!(e.is_closed() || matches!(code.as_deref(), Some("57P01" | "08006")), "{e:?}");
    // What only the dead connection had is not made up.
    does(&c, "CREATE TEMP TABLE x (n int)").await;
    let held = pid(&c).await;
    assert!(value::<bool>(&node, &format!("SELECT pg_terminate_backend({held}, 10000)")).await);
    assert!(c.batch_execute("SELECT 1").await.is_err(), "its temporary table is gone");
    does(&proxy.client().await, "SELECT 1").await;
}

#[tokio::test]
async fn a_node_that_restarts_is_not_noticed_by_who_has_nothing_open() {
    let mut proxy = shared(2).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    does(&a, "CREATE TABLE t (n int); SET work_mem = '1MB'").await;
    let s = a.prepare("INSERT INTO t VALUES (1)").await.unwrap();
    a.execute(&s, &[]).await.unwrap();
    // What is behind the table has been asked and answered: nothing of the session's is open.
    assert_eq!(show(&a, "work_mem").await, "1MB");
    for mode in [StopMode::Fast, StopMode::Immediate] {
        proxy.nodes.nodes[0].stop(mode).unwrap();
        assert!(b.batch_execute("SELECT 1").await.is_err(), "the node is away");
        proxy.nodes.nodes[0].restart().unwrap();
        wait_for("the node to serve again", async || b.batch_execute("SELECT 1").await.ok()).await;
        a.execute(&s, &[]).await.unwrap();
        assert_eq!(show(&a, "work_mem").await, "1MB");
    }
    assert_eq!(value::<i64>(&a, "SELECT count(*) FROM t").await, 3);
}
