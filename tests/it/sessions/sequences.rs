//! currval() and lastval(): what the session itself has drawn, or a refusal; never what another one
//! has drawn on the same server connection.

use pgshunt::app::Server;

use super::*;

async fn drawn(client: &Client, sql: &str) -> i64 {
    value(client, sql).await
}

async fn sequences(client: &Client) {
    does(
        client,
        "CREATE SEQUENCE s; CREATE SEQUENCE r START 100;
         CREATE TABLE t (id serial, v text);
         CREATE TABLE plain (v text)",
    )
    .await;
}

#[tokio::test]
async fn who_has_drawn_nothing_is_told_so() {
    let (proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    let c = proxy.client().await;
    assert_eq!(drawn(&b, "SELECT nextval('s')").await, 1);
    for question in ["SELECT currval('s')", "SELECT lastval()"] {
        assert_eq!(fails(&c, question).await, "55000", "{question}");
        let e = c.query(question, &[]).await.expect_err(question);
        assert_eq!(e.code().unwrap().code(), "55000", "{question}");
    }
    assert_eq!(fails(&c, "SELECT currval('nonsense')").await, "42P01");
    assert_eq!(pinned_by(&proxy).await, ["", "", ""], "nobody is kept for it");
}

#[tokio::test]
async fn the_first_question_is_answered_by_the_connection_that_drew() {
    let (proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    assert_eq!(drawn(&b, "SELECT nextval('s')").await, 1);
    // Whoever only reads there does not matter.
    does(&proxy.client().await, "SELECT v FROM plain").await;
    assert_eq!(drawn(&b, "SELECT currval('s')").await, 1);
    assert_eq!(drawn(&b, "SELECT lastval()").await, 1);
    assert_eq!(fails(&b, "SELECT currval('r')").await, "55000");
}

/// Also where the connections are lent in turn, as to an ORM that asks for the id it has just inserted.
#[tokio::test]
async fn the_first_question_finds_the_connection_that_drew() {
    for question in ["SELECT lastval()", "SELECT currval('t_id_seq')"] {
        let proxy = shared(3).await;
        let a = proxy.client().await;
        sequences(&a).await;
        rotating(&a, 3).await;
        does(&a, "INSERT INTO t (v) VALUES ('a')").await;
        assert_eq!(drawn(&a, question).await, 1);
        assert_eq!(fails(&a, "SELECT currval('nonsense')").await, "42P01");
    }
    let (_proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    assert_eq!(drawn(&a, "SELECT nextval('s')").await, 1);
    assert_eq!(drawn(&b, "SELECT nextval('s')").await, 2);
    assert_eq!(fails(&a, "SELECT currval('nonsense')").await, "42P01", "whatever is known");
}

#[tokio::test]
async fn another_sessions_value_is_never_given() {
    let (_proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    assert_eq!(drawn(&a, "SELECT nextval('s')").await, 1);
    assert_eq!(drawn(&b, "SELECT nextval('s')").await, 2);
    assert_eq!(fails(&a, "SELECT currval('s')").await, "0A000");
    assert_eq!(fails(&a, "SELECT lastval()").await, "0A000");
    // From now on it is followed.
    assert_eq!(drawn(&a, "SELECT nextval('s')").await, 3);
    assert_eq!(drawn(&a, "SELECT currval('s')").await, 3);
    assert_eq!(drawn(&a, "SELECT lastval()").await, 3);
    // What it drew before that, if anything, is not known.
    assert_eq!(fails(&a, "SELECT currval('r')").await, "0A000");
    does(&a, "DISCARD SEQUENCES").await;
    assert_eq!(fails(&a, "SELECT currval('r')").await, "55000");
}

/// What must stand outside of all transactions is told by the statement, not by a word in it.
#[tokio::test]
async fn a_new_columns_default_draws_whatever_the_column_is_called() {
    let (_proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    does(&a, "INSERT INTO plain VALUES ('a'); CREATE TABLE parts (n int) PARTITION BY LIST (n)")
        .await;
    does(&a, "CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)").await;
    assert_eq!(drawn(&a, "SELECT nextval('r')").await, 100);
    does(&b, "ALTER TABLE plain ADD set_concurrently int DEFAULT nextval('s')").await;
    assert_eq!(fails(&a, "SELECT currval('s')").await, "0A000", "it was not its own");
    does(&a, "ALTER TABLE parts DETACH PARTITION part CONCURRENTLY").await;
}

#[tokio::test]
async fn a_database_whose_clients_ask_is_followed() {
    let proxy = shared(3).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    sequences(&a).await;
    does(&a, "DISCARD SEQUENCES").await;
    assert_eq!(fails(&a, "SELECT lastval()").await, "55000");
    for n in 1..4 {
        assert_eq!(
            drawn(&a, "INSERT INTO t (v) VALUES ('a') RETURNING id::bigint").await,
            2 * n - 1
        );
        assert_eq!(drawn(&b, "INSERT INTO t (v) VALUES ('b') RETURNING id::bigint").await, 2 * n);
        for (client, wanted) in [(&a, 2 * n - 1), (&b, 2 * n)] {
            assert_eq!(drawn(client, "SELECT currval('t_id_seq')").await, wanted);
            assert_eq!(drawn(client, "SELECT lastval()").await, wanted);
            assert_eq!(fails(client, "SELECT currval('s')").await, "55000");
        }
    }
    let why = "a sequence's value";
    assert_eq!(pinned_by(&proxy).await, [why, why]);
    does(&a, "BEGIN; SELECT nextval('s'); ROLLBACK").await;
    assert_eq!(drawn(&a, "SELECT currval('s')").await, 1, "ROLLBACK gives nothing back");
    does(&a, "PREPARE q AS SELECT currval('s')").await;
    does(&a, "EXECUTE q; DEALLOCATE q; DISCARD SEQUENCES").await;
    does(&b, "DISCARD ALL").await;
    wait_for("both to be let go of", async || (pinned_by(&proxy).await == ["", ""]).then_some(()))
        .await;
    for client in [&a, &b] {
        assert_eq!(fails(client, "SELECT lastval()").await, "55000");
    }
    // Who only reads keeps nothing.
    does(&a, "SELECT v FROM plain").await;
    assert_eq!(pinned_by(&proxy).await, ["", ""]);
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_connection_back() {
    let (proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    does(&a, "DISCARD SEQUENCES").await;
    assert_eq!(fails(&a, "SELECT lastval()").await, "55000");
    let held = pid(&b).await;
    let c = proxy.client().await;
    does(&c, "SELECT nextval('s')").await;
    assert_eq!(drawn(&c, "SELECT currval('s')").await, 1);
    drop(c);
    assert_eq!(pid(&b).await, held);
    assert_eq!(fails(&b, "SELECT lastval()").await, "55000");
}

#[tokio::test]
async fn in_a_transaction_that_draws_it_is_known_at_once() {
    let (_proxy, a, b) = two_on_one().await;
    sequences(&a).await;
    does(&b, "SELECT nextval('r')").await;
    does(&a, "DISCARD SEQUENCES").await;
    does(&a, "BEGIN").await;
    assert_eq!(drawn(&a, "SELECT nextval('s')").await, 1);
    assert_eq!(drawn(&a, "SELECT currval('s')").await, 1);
    does(&a, "ROLLBACK").await;
}

/// Several sessions draw on connections in turn: the first question of each process is answered, but for
/// the very first.
#[tokio::test]
async fn who_asks_is_remembered_by_the_next_process() {
    let Proxy { nodes, mut server } = shared(3).await;
    for nth in 0..2 {
        let port = server.addr.port();
        let (a, b) = (connect(port).await, connect(port).await);
        if nth == 0 {
            sequences(&a).await;
            does(&a, "SELECT nextval('s'); SELECT lastval()").await;
        } else {
            let own = drawn(&a, "SELECT nextval('s')").await;
            for _ in 0..6 {
                does(&b, "SELECT nextval('s')").await;
            }
            assert_eq!(drawn(&a, "SELECT lastval()").await, own);
            assert_eq!(drawn(&a, "SELECT currval('s')").await, own);
        }
        let root = connect(nodes.nodes[0].port()).await;
        wait_for("it to be noted", async || {
            let noted = texts(&root, "SELECT database_name || role_name FROM pgshunt.asking").await;
            (noted == [format!("{DATABASE}{SUPERUSER}")]).then_some(())
        })
        .await;
        server.shutdown().await;
        server = Server::start(nodes.config.clone()).await.unwrap();
    }
    server.shutdown().await;
}
