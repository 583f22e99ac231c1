//! pgshunt beside one plain PostgreSQL: every statement is answered alike, or refused.
//!
//! - `cases.sql`: one line per statement, of which it is known what becomes of it. Every divergence
//!   ever found is there.
//! - `generator`: statements from a seed; `blocks`: transactions that write, over other tables.
//!   `PGSHUNT_DIFF_SEED` and `PGSHUNT_DIFF_STATEMENTS` let them search elsewhere and longer; the seed of a
//!   failure is printed with it.

mod blocks;
mod cache;
mod cases;
mod generator;
mod pair;
mod pipelined;
mod schema;
mod search;
mod tpch;
pub mod wire;

use pair::Pair;
use schema::distribute;

use crate::support::*;

/// Three nodes under pgshunt and a plain server, with the same tables; then the test, on a thread
/// of its own since its clients block.
async fn with_pair(test: impl FnOnce(&mut Pair) + Send + 'static) {
    with_servers(|pair| {
        schema::create(pair);
        test(pair);
    })
    .await;
}

/// The same without tables.
async fn with_servers(test: impl FnOnce(&mut Pair) + Send + 'static) {
    let proxy = Proxy::start(4, 3).await;
    let port = proxy.port();
    let servers: Vec<u16> = proxy.nodes.nodes.iter().map(|n| n.port()).collect();
    // pgshunt's control runtime is this one: it must not be blocked.
    tokio::task::spawn_blocking(move || {
        let mut pair = Pair::new(port, &servers);
        test(&mut pair);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn known_statements() {
    with_pair(cases::run).await;
}

#[tokio::test]
async fn generated_statements() {
    with_pair(search::run).await;
}

#[tokio::test]
async fn generated_reads() {
    with_pair(search::run_reads).await;
}

#[tokio::test]
async fn generated_joins_and_sub_selects() {
    with_pair(search::run_across).await;
}

#[tokio::test]
async fn generated_cursors() {
    with_pair(search::run_cursors).await;
}

#[tokio::test]
async fn generated_transactions() {
    with_servers(blocks::run).await;
}

#[tokio::test]
async fn pipelined_statements() {
    with_pair(pipelined::run).await;
}
