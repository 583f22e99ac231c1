//! Who was held goes on in the order of arrival: each client's statements in theirs, and the clients
//! in line for a connection in theirs.

use std::time::Duration;

use futures_util::future;
use pgshunt::gate::{Closed, Scope};
use pgshunt::topology::ShardId;

use super::scene::proxy_with;
use super::traffic::ids_in;
use crate::support::{Proxy, value, wait_for};

/// Closes the gate for shard 1, as a cutover would.
async fn close(p: &Proxy) -> Closed {
    let shard = ShardId(1);
    let group = p.server.shared.store.routes().load().shard(shard).unwrap().group;
    let scope = Scope::Shard { group, shard };
    p.server.gates.close(scope, Duration::from_secs(5), None).await.unwrap()
}

async fn until_held(p: &Proxy, count: usize) {
    let console = p.console().await;
    wait_for(&format!("{count} held clients"), async || {
        let all = console.column("SHOW CLIENTS", "activity").await;
        (all.iter().filter(|a| *a == "held").count() == count).then_some(())
    })
    .await;
}

fn note(id: i32, n: usize) -> String {
    format!("UPDATE accounts SET note = coalesce(note || ',', '') || '{n}' WHERE id = {id}")
}

#[tokio::test]
async fn who_was_held_goes_on_in_the_order_of_arrival() {
    let p = proxy_with(2, |c| {
        c.server.workers = 1;
        c.pool.size = 1;
    })
    .await;
    let id = ids_in(1, 1).next().unwrap();
    let client = p.client().await;
    let insert = format!("INSERT INTO accounts (id, owner) VALUES ({id}, 0)");
    client.batch_execute(&insert).await.unwrap();

    // One client, everything sent before the gate opens: simple, extended, and a transaction.
    let append = "UPDATE accounts SET note = coalesce(note || ',', '') || $2::text WHERE id = $1";
    let append = client.prepare(append).await.unwrap();
    let closed = close(&p).await;
    let held = tokio::spawn(async move {
        let texts: Vec<String> = (1..=12).map(|n| note(id, n)).collect();
        let numbers: Vec<String> = (1..=12).map(|n: i32| n.to_string()).collect();
        let all = (0..12).map(|n| {
            let (client, append, texts, numbers) = (&client, &append, &texts, &numbers);
            async move {
                match n % 3 {
                    0 => client.batch_execute(&texts[n]).await.map(|()| 1),
                    1 => client.execute(append, &[&id, &numbers[n]]).await,
                    _ => {
                        let text = format!("BEGIN; {}; COMMIT", texts[n]);
                        client.batch_execute(&text).await.map(|()| 1)
                    }
                }
            }
        });
        let answers = future::join_all(all).await;
        for answer in answers {
            assert_eq!(answer.unwrap(), 1);
        }
        client
    });
    until_held(&p, 1).await;
    closed.open();
    let client = held.await.unwrap();
    let sql = format!("SELECT note FROM accounts WHERE id = {id}");
    assert_eq!(value::<String>(&client, &sql).await, "1,2,3,4,5,6,7,8,9,10,11,12");

    // Many clients, one connection.
    client
        .batch_execute(&format!("UPDATE accounts SET note = NULL WHERE id = {id}"))
        .await
        .unwrap();
    let closed = close(&p).await;
    let mut all = Vec::new();
    for n in 1..=12 {
        let one = p.client().await;
        all.push(tokio::spawn(async move { one.batch_execute(&note(id, n)).await }));
        until_held(&p, n).await;
    }
    closed.open();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(value::<String>(&client, &sql).await, "1,2,3,4,5,6,7,8,9,10,11,12");
}
