//! Plans are made from tables and what is around them, not from where shards are.

use pgshunt::moves::State;

use super::scene::{proxy_with, serves, until_state};
use crate::support::Proxy;

/// How many texts have been parsed.
fn parsed(p: &Proxy) -> u64 {
    let shared = &p.server.shared;
    let page = pgshunt::telemetry::render(&shared.registry, &shared.store.routes().load());
    let misses = page.lines().filter(|l| l.starts_with("pgshunt_plan_cache_misses_total"));
    misses.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn a_move_leaves_the_plans_and_ddl_does_not() {
    let p = proxy_with(2, |config| config.server.workers = 1).await;
    let (console, client) = (p.console().await, p.client().await);
    let ask = async || {
        for id in 0..8 {
            client.simple_query(&format!("SELECT v FROM accounts WHERE id = {id}")).await.unwrap();
            client
                .simple_query(&format!("SELECT v, id FROM accounts WHERE id = {id}"))
                .await
                .unwrap();
        }
        parsed(&p)
    };
    let before = ask().await;
    console.does("MOVE SHARD 1 TO node2").await;
    until_state(&console, State::Soaking).await;
    assert_eq!(serves(&console, 1).await, "node2");
    assert_eq!(ask().await, before);
    console.does("FINISH MOVE").await;
    until_state(&console, State::Done).await;
    assert_eq!(ask().await, before);

    client.batch_execute("ALTER TABLE accounts ADD COLUMN extra int").await.unwrap();
    assert_eq!(ask().await, before + 3, "the DDL itself, and both statements anew");
}
