//! Who listens hears everything once, in order, whichever process listens for it.

use super::*;

/// Sends the numbers from 1 on, from a node's own connection, until it is told to stop.
async fn count_aloud(
    node: u16,
    mut stop: tokio::sync::oneshot::Receiver<()>,
    said: Arc<std::sync::atomic::AtomicU64>,
) -> u64 {
    let client = connect(node).await;
    let send = client.prepare("SELECT pg_notify('numbers', $1::text)").await.unwrap();
    let mut n = 0;
    while stop.try_recv().is_err() {
        n += 1;
        client.execute(&send, &[&n.to_string()]).await.unwrap();
        said.store(n, std::sync::atomic::Ordering::Release);
    }
    n
}

#[tokio::test]
async fn nothing_is_missed_and_nothing_heard_twice() {
    let mut place = Place::new("takeover-listeners");
    let mut guests = Vec::new();
    for n in 0..12 {
        let guest = Guest::open(place.port, n % 3 == 0).await;
        guest.does("LISTEN numbers; LISTEN more").await;
        guests.push(guest);
    }
    let said = Arc::<std::sync::atomic::AtomicU64>::default();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let counts = tokio::spawn(count_aloud(place.cluster.nodes[0].port(), stopped, said.clone()));
    let goes_on = async || {
        let until = said.load(std::sync::atomic::Ordering::Acquire) + 50;
        wait_for("the counting", async || {
            (said.load(std::sync::atomic::Ordering::Acquire) >= until).then_some(())
        })
        .await;
    };
    let mut old = Vec::new();
    for _ in 0..4 {
        goes_on().await;
        old.push(place.take_over());
        goes_on().await;
        // It listens to more, and to less, with the new process as with the old one.
        for guest in &guests {
            guest.does("UNLISTEN more; LISTEN more").await;
        }
    }
    stop.send(()).unwrap();
    let last = counts.await.unwrap();
    for (at, guest) in guests.iter_mut().enumerate() {
        for n in 1..=last {
            assert_eq!(guest.hears().await, n.to_string(), "guest {at}");
        }
        // Its own come behind them, and under the pid that it has known since its login.
        guest.does("NOTIFY more, 'own'").await;
    }
    for (at, guest) in guests.iter_mut().enumerate() {
        for n in 0..12 {
            assert_eq!(guest.hears().await, "own", "guest {at}, {n}");
        }
    }
    // Who is not under TLS is gone from the old processes, and with the others they go.
    drop(guests);
    for old in &mut old {
        assert!(old.end().await.success());
    }
}
