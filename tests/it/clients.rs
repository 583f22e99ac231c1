//! What real clients do and a proxy easily gets wrong; each was found by `tests/drivers/run`.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::support::*;

async fn with_table() -> (Proxy, Client) {
    let proxy = Proxy::start(2, 2).await;
    let client = proxy.client().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY HASH (id)")
        .await
        .unwrap();
    (proxy, client)
}

#[tokio::test]
async fn what_puts_session_parameters_in_force_is_no_row_of_the_answer() {
    let (proxy, _client) = with_table().await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).dbname(DATABASE).user(SUPERUSER);
    config.password(PASSWORD).application_name("an application");
    for _ in 0..2 {
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        let rows = client.simple_query("SELECT n FROM t").await.unwrap();
        let rows = rows.iter().filter(|m| matches!(m, tokio_postgres::SimpleQueryMessage::Row(_)));
        assert_eq!(rows.count(), 0, "the table is empty");
    }
}

#[tokio::test]
async fn preparing_a_statement_does_not_tie_a_transaction_to_a_node() {
    let (_proxy, mut client) = with_table().await;
    for id in 0..20 {
        let transaction = client.transaction().await.unwrap();
        let insert = transaction.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
        transaction.execute(&insert, &[&id, &1]).await.unwrap();
        let update = transaction.prepare("UPDATE t SET n = n + 1 WHERE id = $1").await.unwrap();
        assert_eq!(transaction.execute(&update, &[&id]).await.unwrap(), 1);
        if id % 2 == 0 {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
    }
    let rows: i64 = value(&client, "SELECT count(*) FROM t WHERE n = 2").await;
    assert_eq!(rows, 10, "every second transaction was rolled back");
}

#[tokio::test]
async fn a_statement_that_cannot_be_prepared_fails_the_transaction() {
    let (_proxy, mut client) = with_table().await;
    let transaction = client.transaction().await.unwrap();
    let wrong = transaction.prepare("SELECT nothing FROM t WHERE id = $1").await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::UNDEFINED_COLUMN));
    let aborted = transaction.execute("INSERT INTO t VALUES (1, 1)", &[]).await.unwrap_err();
    assert_eq!(aborted.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    transaction.rollback().await.unwrap();
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM t").await, 0);
}
