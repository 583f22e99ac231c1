//! Prepared statements are the session's own to look at, and have the names that it gave them,
//! whatever the server connection knows besides.

use super::*;

/// What pg_prepared_statements shows a client, asked in a text of its own.
async fn listed(client: &Client) -> Vec<String> {
    texts(client, "SELECT name FROM pg_prepared_statements ORDER BY name").await
}

#[tokio::test]
async fn the_list_is_the_clients_own() {
    let (_proxy, a, b) = two_on_one().await;
    let (one, two) = (a.prepare("SELECT 1").await.unwrap(), b.prepare("SELECT 2").await.unwrap());
    // Asks what is left, by a statement of pgshunt's own.
    does(&b, "DO 'BEGIN END'").await;
    let (of_a, of_b) = (listed(&a).await, listed(&b).await);
    assert_eq!((of_a.len(), of_b.len()), (1, 1), "{of_a:?} {of_b:?}");
    assert!(of_a[0].starts_with('s') && of_b[0].starts_with('s'), "{of_a:?} {of_b:?}");
    // Looked at, they are what they were.
    assert_eq!(a.query_one(&one, &[]).await.unwrap().get::<_, i32>(0), 1);
    assert_eq!(b.query_one(&two, &[]).await.unwrap().get::<_, i32>(0), 2);
    does(&b, "PREPARE x AS SELECT 3").await;
    assert_eq!(listed(&b).await, [of_b[0].clone(), "x".to_owned()]);
    does(&b, "EXECUTE x; DEALLOCATE ALL").await;
    assert_eq!(listed(&b).await, Vec::<String>::new());
    assert_eq!(listed(&a).await, of_a);
}

/// A statement whose table is gone cannot be shown: that is said, and ends no more than it must.
#[tokio::test]
async fn a_list_that_cannot_be_shown_is_refused() {
    let (_proxy, a, b) = two_on_one().await;
    does(&b, "CREATE TABLE gone (n int)").await;
    let s = a.prepare("SELECT n FROM gone").await.unwrap();
    does(&b, "DROP TABLE gone").await;
    assert_eq!(fails(&a, "SELECT name FROM pg_prepared_statements").await, "0A000");
    does(&a, "SELECT 1").await;
    does(&a, "BEGIN").await;
    assert_eq!(fails(&a, "SELECT name FROM pg_prepared_statements").await, "0A000");
    assert_eq!(fails(&a, "SELECT 1").await, "25P02");
    does(&a, "ROLLBACK").await;
    drop(s);
    wait_for("the list of a client that has closed its statement", async || {
        a.simple_query("SELECT name FROM pg_prepared_statements").await.ok()
    })
    .await;
    assert_eq!(listed(&a).await, Vec::<String>::new());
}

#[tokio::test]
async fn prepare_time_tells_their_age_whatever_they_are_called() {
    use crate::protocol::talk::{Talk, Until};
    let (proxy, ..) = two_on_three().await;
    let port = proxy.port();
    let talk = tokio::task::spawn_blocking(move || {
        let mut t = Talk::open(port, &[]);
        t.say("Parse z SELECT 1 | Parse m SELECT 2 | Parse a SELECT 3 | Parse k SELECT 4 | Sync");
        t.hear(Until::Ready(1));
        t.say("CloseStatement m | Parse m SELECT 5 | Sync");
        t.hear(Until::Ready(1));
        t.say("Query SELECT name, generic_plans, custom_plans FROM pg_prepared_statements ORDER BY prepare_time");
        t.hear(Until::Ready(1))
    });
    let heard = talk.await.unwrap();
    let rows: Vec<_> = heard.iter().filter(|m| m.starts_with("Data")).collect();
    assert_eq!(rows, ["Data z 0 0", "Data a 0 0", "Data k 0 0", "Data m 0 0"], "{heard:?}");
}
