//! With server_round_robin, transactions go round all server connections of a pool.

use super::*;

#[tokio::test]
async fn the_connection_that_has_been_idle_the_longest_is_lent_first() {
    let proxy = Proxy::start_with(1, 1, |c: &mut Config| {
        c.pool.min_size = 3;
        c.pool.server_round_robin = true;
        // Who is served by which thread does not matter.
        c.server.workers = 2;
    })
    .await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    rotating(&a, 3).await;
    let turn = rotating(&a, 3).await;
    for wanted in turn.iter().cycle().take(9) {
        assert_eq!(simply_pid(&a).await, *wanted);
    }
    // The other one is on the other thread, and has the same.
    let mut others = rotating(&b, 3).await;
    others.sort_unstable();
    let mut all = turn.clone();
    all.sort_unstable();
    assert_eq!(others, all);
    // Each transaction has one, and not each statement.
    does(&a, "BEGIN").await;
    let held = simply_pid(&a).await;
    assert_eq!(simply_pid(&a).await, held);
    assert!(!rotating(&b, 2).await.contains(&held));
    does(&a, "COMMIT").await;

    // Changed while serving, it is the one that was used last.
    let console = proxy.console().await;
    console.does("SET server_round_robin = 0").await;
    let first = simply_pid(&a).await;
    assert_eq!([simply_pid(&a).await, simply_pid(&a).await], [first; 2]);
    console.does("SET pool.server_round_robin = on").await;
    rotating(&a, 3).await;
    let shown = console.lines("SHOW CONFIG").await;
    let of = |key: &str| {
        let line = shown.iter().find(|l| l[0].1.as_deref() == Some(key));
        line.unwrap_or_else(|| panic!("no {key}"))[1].1.clone().unwrap_or_default()
    };
    assert_eq!(
        (of("server_round_robin"), of("pool.server_round_robin")),
        ("1".into(), "true".into())
    );
    assert_eq!((of("min_pool_size"), of("pool.min_size")), ("3".into(), "3".into()));
}

/// What a dead connection leaves is made up for, unseen.
#[tokio::test]
async fn a_pool_in_use_is_filled_again() {
    let proxy = shared(3).await;
    let a = proxy.client().await;
    let turn = rotating(&a, 3).await;
    let node = connect(proxy.nodes.nodes[0].port()).await;
    for pid in &turn[1..] {
        let gone: bool = value(&node, &format!("SELECT pg_terminate_backend({pid}, 30000)")).await;
        assert!(gone);
    }
    let fresh = rotating(&a, 3).await;
    assert!(fresh.contains(&turn[0]), "{turn:?} {fresh:?}");
    assert!(!turn[1..].iter().any(|pid| fresh.contains(pid)), "{turn:?} {fresh:?}");
}
