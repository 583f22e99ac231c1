//! How long a session may do nothing, while it holds no server connection that would end it.

use super::*;

/// How the session ended, within PATIENCE: the SQLSTATE of its last words.
async fn end(port: u16, options: &str, says: &[&str]) -> String {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname(DATABASE).user(SUPERUSER).password(PASSWORD);
    let (client, connection) =
        config.options(options).connect(tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::spawn(connection);
    for sql in says {
        // On a busy machine its time may be up before it has heard the answer.
        if let Err(e) = client.batch_execute(sql).await {
            return e.code().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().to_owned();
        }
    }
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect(options).unwrap();
    ended.unwrap_err().code().unwrap().code().to_owned()
}

#[tokio::test]
async fn a_client_that_idles_is_sent_away_in_time() {
    let (proxy, a, b) = two_on_one().await;
    let port = proxy.port();
    let setup = "\
        CREATE FUNCTION hurry() RETURNS void LANGUAGE plpgsql AS \
          $$ BEGIN PERFORM set_config('idle_session_timeout', '200', false); END $$";
    does(&a, setup).await;
    for (options, says, wanted) in [
        ("-c idle_session_timeout=200", &[][..], "57P05"),
        ("", &["SET idle_session_timeout = '0.2s'"], "57P05"),
        ("", &["SELECT hurry()"], "57P05"),
        ("", &["BEGIN; SET idle_session_timeout = 100; COMMIT"], "57P05"),
        // A BEGIN that no node has seen yet.
        ("-c idle_in_transaction_session_timeout=200", &["BEGIN"], "25P03"),
        ("-c idle_in_transaction_session_timeout=200", &["BEGIN; SELECT 1"], "25P03"),
    ] {
        assert_eq!(end(port, options, says).await, wanted, "{options} {says:?}");
    }
    // What was rolled back, reset or is in time does not end it; nor does it end anybody else.
    does(&b, "BEGIN").await;
    does(&b, "SET idle_session_timeout = 100").await;
    does(&b, "ROLLBACK").await;
    does(&a, "SET idle_session_timeout = 300").await;
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        does(&a, "SELECT 1").await;
    }
    does(&a, "RESET idle_session_timeout").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    does(&a, "SELECT 1").await;
    does(&b, "SELECT 1").await;
}
