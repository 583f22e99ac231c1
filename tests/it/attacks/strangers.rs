//! Connections that have not logged in: how many there may be, and who comes in all the same.

use std::io::Read;
use std::time::Duration;

use super::*;

/// Connections that say nothing.
fn silent(port: u16, count: usize) -> Vec<std::net::TcpStream> {
    (0..count).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).collect()
}

/// How many of them are still there.
fn still_there(sockets: &mut [std::net::TcpStream]) -> usize {
    let waits = |s: &mut std::net::TcpStream| {
        s.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        s.read(&mut [0; 1]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    };
    sockets.iter_mut().map(waits).filter(|waits| *waits).count()
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let p = Proxy::start_with(1, 1, |c| {
        c.limits.max_logins = 30;
        c.limits.max_logins_per_address = 20;
        c.limits.max_clients = 3;
    })
    .await;
    let mut strangers = silent(p.port(), 100);
    wait_for("all but some to be sent away", || {
        let left = still_there(&mut strangers);
        async move { (left == 20).then_some(()) }
    })
    .await;
    // They do not count as clients, and who proves who it is comes in.
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(p.client().await);
    }
    assert_eq!(value::<i32>(&clients[0], "SELECT 1").await, 1);
    // When there is no room for clients the console is still there.
    let refused = connect_as(p.port(), DATABASE, SUPERUSER, PASSWORD).await.err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "53300");
    assert!(!p.console().await.column("SHOW CLIENTS", "database").await.is_empty());
    // A login that was begun before is the oldest by and by, and goes like the others.
    assert!(still_there(&mut strangers) < 20);
}
