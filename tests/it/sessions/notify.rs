//! LISTEN and NOTIFY, with clients that share server connections and none of which keeps one.

use std::future::poll_fn;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use super::*;
use crate::protocol::talk::{Talk, Until};

struct Listener {
    client: Client,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn open(proxy: &Proxy, database: &str) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(proxy.port()).dbname(database).user(SUPERUSER);
        let (client, mut connection) = config.password(PASSWORD).connect(NoTls).await.unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(n) = message {
                    let _ = tell.send(format!("{} {}", n.channel(), n.payload()));
                }
            }
            let _ = tell.send("(closed)".into());
        });
        Self { client, heard }
    }

    async fn next(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        next.expect("a notification in time").expect("a connection")
    }

    /// Whatever was sent before has come when this one has.
    async fn all_so_far(&mut self, by: &Client) -> Vec<String> {
        does(&self.client, "LISTEN the_end").await;
        does(by, "NOTIFY the_end").await;
        let mut all = Vec::new();
        loop {
            match self.next().await {
                end if end.starts_with("the_end") => return all,
                other => all.push(other),
            }
        }
    }
}

/// Three clients on one server connection: two listen, one does not.
async fn three() -> (Proxy, Listener, Listener, Client) {
    let proxy = shared(1).await;
    let (a, b) = (Listener::open(&proxy, DATABASE).await, Listener::open(&proxy, DATABASE).await);
    let c = proxy.client().await;
    (proxy, a, b, c)
}

#[tokio::test]
async fn who_listens_hears_and_nobody_keeps_a_connection() {
    let (proxy, mut a, mut b, c) = three().await;
    does(&a.client, "LISTEN news").await;
    does(&b.client, "LISTEN news; LISTEN \"Odd \"\"one\"").await;
    does(&c, "NOTIFY news, 'one'").await;
    does(&c, "SELECT pg_notify('news', 'two'), pg_notify('Odd \"one', 'three')").await;
    does(&c, "BEGIN; NOTIFY news, 'never'; ROLLBACK").await;
    for n in [&mut a, &mut b] {
        assert_eq!((n.next().await, n.next().await), ("news one".into(), "news two".into()));
    }
    assert_eq!(b.next().await, "Odd \"one three");
    assert_eq!(pinned_by(&proxy).await, ["", "", ""]);
    does(&a.client, "UNLISTEN news").await;
    does(&b.client, "UNLISTEN *").await;
    does(&c, "NOTIFY news, 'unheard'").await;
    assert!(a.all_so_far(&c).await.is_empty());
    assert!(b.all_so_far(&c).await.is_empty());
    let none: i64 = value(&c, "SELECT count(*) FROM pg_listening_channels()").await;
    assert_eq!(none, 0);
    assert_eq!(fails(&a.client, "SELECT pg_listening_channels()").await, "0A000", "it listens");
    does(&a.client, "DISCARD ALL").await;
    let none: i64 = value(&a.client, "SELECT count(*) FROM pg_listening_channels()").await;
    assert_eq!(none, 0);
}

#[tokio::test]
async fn a_listen_counts_from_its_commit_on() {
    let (_proxy, mut a, _b, c) = three().await;
    let a_is = |sql: &'static str| a.client.batch_execute(sql);
    a_is("BEGIN; LISTEN undone; ROLLBACK").await.unwrap();
    a_is("BEGIN; SAVEPOINT s; LISTEN undone; ROLLBACK TO s; LISTEN done; COMMIT").await.unwrap();
    a_is("BEGIN; LISTEN kept; COMMIT; BEGIN; UNLISTEN kept; ROLLBACK").await.unwrap();
    assert!(a_is("LISTEN undone; SELECT 1/0").await.is_err());
    assert!(a_is("BEGIN; LISTEN undone; SELECT 1/0").await.is_err());
    let aborted = a_is("LISTEN undone").await.unwrap_err();
    assert_eq!(aborted.code().unwrap().code(), "25P02");
    a_is("COMMIT").await.unwrap();
    does(&c, "NOTIFY undone; NOTIFY done; NOTIFY kept").await;
    assert_eq!(a.all_so_far(&c).await, ["done ", "kept "]);
}

#[tokio::test]
async fn what_is_sent_during_a_transaction_comes_at_its_end() {
    let (_proxy, mut a, _b, c) = three_on_two().await;
    does(&a.client, "LISTEN news").await;
    does(&a.client, "BEGIN; SELECT 1").await;
    does(&c, "NOTIFY news, 'now'").await;
    for _ in 0..5 {
        does(&a.client, "SELECT 1").await;
        assert!(a.heard.try_recv().is_err(), "not within the transaction");
    }
    does(&a.client, "COMMIT").await;
    assert_eq!(a.next().await, "news now");
    assert_eq!(a.client.query("LISTEN news", &[]).await.unwrap().len(), 0, "a second time");
    a.client.execute("NOTIFY news, 'again'", &[]).await.unwrap();
    assert_eq!(a.next().await, "news again");
}

async fn three_on_two() -> (Proxy, Listener, Listener, Client) {
    let proxy = shared(2).await;
    let (a, b) = (Listener::open(&proxy, DATABASE).await, Listener::open(&proxy, DATABASE).await);
    let c = proxy.client().await;
    (proxy, a, b, c)
}

/// Raw, message by message: before which ReadyForQuery, by which process.
#[tokio::test]
async fn ones_own_notifications_come_before_ready_for_query_and_bear_ones_own_pid() {
    let proxy = shared(1).await;
    let port = proxy.port();
    let talk = move || {
        let (mut a, mut b) = (Talk::open(port, &[]), Talk::open(port, &[]));
        for t in [&mut a, &mut b] {
            t.say("Query LISTEN n");
            assert_eq!(t.hear(Until::Ready(1)), ["Complete LISTEN", "Ready I"]);
        }
        // Somebody else's on the same server connection just before.
        b.say("Query NOTIFY n, 'b'");
        let own = format!("Notification {} n b", b.pid);
        assert_eq!(b.hear(Until::Ready(1)), ["Complete NOTIFY", &own, "Ready I"]);
        a.say("Query NOTIFY n, 'a'");
        let heard = a.hear(Until::Ready(1));
        assert!(heard[0].starts_with("Notification ") && heard[0].ends_with(" n b"), "{heard:?}");
        assert_ne!(heard[0], format!("Notification {} n b", a.pid));
        let own = format!("Notification {} n a", a.pid);
        assert_eq!(heard[1..], ["Complete NOTIFY", &own, "Ready I"]);
        // By the extended protocol, in a transaction, and behind a savepoint.
        a.say("Query BEGIN");
        a.hear(Until::Ready(1));
        a.say("Parse - SELECT pg_notify('n', $1) | Bind - - x | Execute - | Sync");
        let heard = a.hear(Until::Ready(1));
        assert!(!heard.iter().any(|h| h.ends_with(" n x")), "not before COMMIT: {heard:?}");
        a.say("Query COMMIT");
        let own = format!("Notification {} n x", a.pid);
        assert_eq!(a.hear(Until::Ready(1)), ["Complete COMMIT", &own, "Ready I"]);
        // LISTEN by the extended protocol, described like any utility statement.
        a.say("Parse l LISTEN m | DescribeStatement l | Bind - l | Execute - | Sync");
        assert_eq!(
            a.hear(Until::Ready(1)),
            ["ParseComplete", "Parameters", "NoData", "BindComplete", "Complete LISTEN", "Ready I"]
        );
        a.say("Query /* LISTEN */ -- LISTEN\n listen o; NOTIFY m, 'y'");
        let own = format!("Notification {} m y", a.pid);
        let heard = a.hear(Until::Ready(1));
        assert_eq!(heard, ["Complete LISTEN", "Complete NOTIFY", &own, "Ready I"]);
        a.say("Query NOTIFY n, 'p1' | Query NOTIFY n, 'p2' | Query SELECT 1");
        let heard = a.hear(Until::Ready(3));
        let notes: Vec<_> =
            heard.iter().filter(|h| h.starts_with("Notification")).cloned().collect();
        assert!(notes.len() <= 2, "{heard:?}");
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
}

/// Its transaction listens first of all and notifies itself, in either order.
#[tokio::test]
async fn who_begins_to_listen_hears_what_the_same_transaction_sends() {
    let proxy = shared(1).await;
    let port = proxy.port();
    let talk = move || {
        let together = ["LISTEN n; NOTIFY n, 'x'", "NOTIFY n, 'x'; LISTEN n"];
        for text in together {
            let mut t = Talk::open(port, &[]);
            t.say(&format!("Query {text}"));
            let own = format!("Notification {} n x", t.pid);
            let heard = t.hear(Until::Ready(1));
            assert_eq!(heard[2..], [own.as_str(), "Ready I"], "{text}: {heard:?}");
        }
        for apart in [["LISTEN n", "NOTIFY n, 'x'"], ["NOTIFY n, 'x'", "LISTEN n"]] {
            let mut t = Talk::open(port, &[]);
            for text in ["BEGIN", apart[0], apart[1]] {
                t.say(&format!("Query {text}"));
                t.hear(Until::Ready(1));
            }
            t.say("Query COMMIT");
            let own = format!("Notification {} n x", t.pid);
            assert_eq!(t.hear(Until::Ready(1)), ["Complete COMMIT", &own, "Ready I"], "{apart:?}");
        }
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
}

/// What has been committed comes with the next answer, also when that is to the end of listening.
#[tokio::test]
async fn what_others_have_committed_comes_no_later_than_the_next_answer() {
    let proxy = shared(1).await;
    let port = proxy.port();
    let talk = move || {
        let (mut a, mut b) = (Talk::open(port, &[]), Talk::open(port, &[]));
        for text in ["SELECT 1", "BEGIN; COMMIT", "LISTEN m", "UNLISTEN *"].repeat(5) {
            a.say("Query LISTEN n");
            a.hear(Until::Ready(1));
            b.say("Query NOTIFY n");
            b.hear(Until::Ready(1));
            a.say(&format!("Query {text}"));
            let heard = a.hear(Until::Ready(1));
            let notes = heard.iter().filter(|h| h.starts_with("Notification ")).count();
            assert_eq!(notes, 1, "{text}: {heard:?}");
        }
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_between_many_listeners_and_senders() {
    let proxy = shared(2).await;
    let mut listeners = Vec::new();
    for _ in 0..8 {
        listeners.push(Listener::open(&proxy, DATABASE).await);
    }
    let (x, y) = (proxy.client().await, proxy.client().await);
    for (n, l) in listeners.iter().enumerate() {
        does(&l.client, &format!("LISTEN all_of_them; LISTEN only_{n}")).await;
    }
    for i in 0..50 {
        does(&x, &format!("NOTIFY all_of_them, 'x{i}'; NOTIFY only_{}, '{i}'", i % 8)).await;
        does(&y, &format!("NOTIFY all_of_them, 'y{i}'")).await;
    }
    for (n, l) in listeners.iter_mut().enumerate() {
        let heard = l.all_so_far(&x).await;
        for sender in ["x", "y"] {
            let of: Vec<_> = heard
                .iter()
                .filter_map(|h| h.strip_prefix(&format!("all_of_them {sender}")))
                .map(|i| i.parse::<usize>().unwrap())
                .collect();
            assert!(of.iter().copied().eq(0..50), "{n}: {of:?}");
        }
        let own = heard.iter().filter(|h| h.starts_with(&format!("only_{n} "))).count();
        assert_eq!(own, (0..50).filter(|i| i % 8 == n).count());
        assert_eq!(heard.len(), 100 + own);
    }
}

#[tokio::test]
async fn databases_hear_their_own_only() {
    let proxy = shared(1).await;
    let mut here = Listener::open(&proxy, DATABASE).await;
    let mut there = Listener::open(&proxy, "postgres").await;
    does(&here.client, "LISTEN news").await;
    does(&there.client, "LISTEN news").await;
    let (h, t) = (proxy.client().await, Listener::open(&proxy, "postgres").await);
    does(&h, "NOTIFY news, 'here'").await;
    does(&t.client, "NOTIFY news, 'there'").await;
    assert_eq!((here.next().await, there.next().await), ("news here".into(), "news there".into()));
    // Nobody listens in a database any more: nothing of pgshunt keeps it from being dropped.
    does(&h, "CREATE DATABASE brief").await;
    let brief = Listener::open(&proxy, "brief").await;
    does(&brief.client, "LISTEN news").await;
    drop(brief);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'brief' AND application_name = 'pgshunt control'";
    wait_for("the listening connection to end", async || {
        (value::<i64>(&h, connected).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_listening_connection_that_breaks_off_is_not_passed_over_in_silence() {
    let (_proxy, mut a, mut b, c) = three().await;
    does(&a.client, "LISTEN news").await;
    does(&b.client, "LISTEN news; UNLISTEN *").await;
    let killed: i64 = value(
        &c,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = 'pgshunt control' AND query ~ '^SELECT 1($|;)'",
    )
    .await;
    assert_eq!(killed, 1);
    assert_eq!(a.next().await, "(closed)");
    does(&b.client, "LISTEN news").await;
    does(&c, "NOTIFY news, 'anew'").await;
    assert_eq!(b.next().await, "news anew");
}

/// The client never reads: it is told so in the end, and everybody else goes on.
#[tokio::test]
async fn a_client_that_does_not_read_its_notifications_costs_bounded_memory() {
    let (proxy, mut a, _b, c) = three_on_two().await;
    does(&a.client, "LISTEN news").await;
    let slow = Listener::open(&proxy, DATABASE).await;
    does(&slow.client, "LISTEN news").await;
    does(&slow.client, "BEGIN; SELECT 1").await;
    let sent = "SELECT pg_notify('news', i || repeat('x', 7000)) FROM generate_series(1, 400) i";
    for _ in 0..4 {
        does(&c, sent).await;
        for _ in 0..400 {
            assert!(a.next().await.starts_with("news "));
        }
    }
    let e = slow.client.batch_execute("SELECT 1").await.unwrap_err();
    let code = e.code().map(|c| c.code().to_owned());
    assert!(e.is_closed() || code.as_deref() == Some("53400"), "{e:?}");
    does(&a.client, "SELECT 1").await;
}
