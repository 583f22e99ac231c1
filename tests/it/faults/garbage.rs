//! What no client should send, before and after it has logged in. Each is told what PostgreSQL
//! would tell it, and everybody else goes on.

use std::time::Duration;

use super::wire::{SSL_REQUEST, Wire, first, message, query, startup};
use super::*;

async fn after(p: &Proxy, sent: &[u8]) -> (String, String) {
    let mut wire = Wire::dial(p.port()).await;
    wire.send(sent).await;
    wire.last_words().await
}

#[tokio::test]
async fn garbage_before_login_is_answered() {
    let p = narrow().await;
    let mut witness = Wire::login(p.port()).await;
    for (sent, code, said) in [
        (first(2 << 16, b""), "0A000", "unsupported frontend protocol 2.0"),
        (first(3 << 16, b"user\0"), "08P01", "invalid startup packet layout"),
        (first(3 << 16, b"user\0a\0\0x"), "08P01", "invalid startup packet layout"),
        (first(3 << 16, b"database\0a\0\0"), "28000", "no PostgreSQL user name"),
        ([SSL_REQUEST, b"stuffed"].concat(), "08P01", "received unencrypted data after SSL"),
        (
            [&[0, 0, 0, 8, 4, 210, 22, 48], &startup(DATABASE)[..]].concat(),
            "08P01",
            "received unencrypted data after GSS",
        ),
    ] {
        let (got, message) = after(&p, &sent).await;
        assert!(got == code && message.starts_with(said), "{sent:?}: {got} {message}");
    }
    // What has no such length is no packet: as by PostgreSQL it is left without a byte.
    for sent in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0x58, 0, 0, 0, 4],
        &[0; 4],
        &[0xff; 8],
        &[0x7f, 0xff, 0xff, 0xff],
        &first(80_877_102, b"abcd"),
        &first(80_877_103, b"stuffed"),
    ] {
        let mut wire = Wire::dial(p.port()).await;
        wire.send(sent).await;
        assert_eq!(wire.byte().await, None, "{sent:?}");
    }
    for (code, number) in [(80_877_103, 5679), (80_877_104, 5680)] {
        let mut wire = Wire::dial(p.port()).await;
        let request = first(code, b"");
        wire.send(&request).await;
        assert_eq!(wire.byte().await, Some(b'N'));
        wire.send(&request).await;
        let (code, message) = wire.last_words().await;
        assert_eq!(code, "0A000");
        assert!(message.starts_with(&format!("unsupported frontend protocol 1234.{number}")));
    }
    // TLS where there is none cannot be answered.
    let mut wire = Wire::dial(p.port()).await;
    wire.send(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await;
    assert!(wire.next().await.is_none());
    // One request after the other is fine: SSL, GSS, then the session.
    let mut wire = Wire::dial(p.port()).await;
    for code in [80_877_104, 80_877_103] {
        wire.send(&first(code, b"")).await;
        assert_eq!(wire.byte().await, Some(b'N'));
    }
    wire.send(&startup(DATABASE)).await;
    assert!(wire.ready().await.ends_with('Z'));
    assert_eq!(witness.ask("SELECT 1").await, "TDCZ");
}

#[tokio::test]
async fn garbage_after_login_ends_that_session_only() {
    let p = Proxy::start_with(1, 1, |c| {
        trusting(c);
        c.limits.max_message = 1 << 20;
    })
    .await;
    let mut witness = Wire::login(p.port()).await;
    witness.ask("CREATE TABLE t (a int)").await;
    witness.ask("BEGIN").await;
    let large = query(&format!("SELECT '{}'", "x".repeat(2 << 20)));
    for (sent, code) in [
        (message(0, b""), "08P01"),
        (message(0xff, b"what"), "08P01"),
        (vec![b'Q', 0, 0, 0, 3], "08P01"),
        (vec![b'Q', 0x7f, 0xff, 0xff, 0xff], "08P01"),
        (vec![b'Q', 0xff, 0xff, 0xff, 0xff], "08P01"),
        (vec![b'P', 0x3f, 0xff, 0xff, 0xff], "54000"),
        (large, "54000"),
        (message(b'p', b"md5\0"), "08P01"),
    ] {
        let mut wire = Wire::login(p.port()).await;
        assert_eq!(wire.ask("BEGIN; INSERT INTO t VALUES (1)").await, "CCZ");
        wire.send(&sent).await;
        let (got, said) = wire.last_words().await;
        assert_eq!(got, code, "{:?}: {said}", &sent[..sent.len().min(20)]);
    }
    // Well framed, it is an error of its statement and no more.
    for (sent, answer) in [
        (message(b'Q', b"SELECT 1"), "E08P01Z"),
        (message(b'Q', b"SELECT 1\0 2\0"), "E08P01Z"),
        (message(b'P', b"no end"), "E08P01Z"),
        (message(b'P', b"s\0SELECT $1\0\x7f\xff"), "E08P01Z"),
        (message(b'B', b"\0nosuch\0\0\x01"), "E26000Z"),
        (message(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"), "E26000Z"),
        (message(b'D', b"?\0"), "E08P01Z"),
        (message(b'E', b"\0\0"), "E08P01Z"),
    ] {
        let mut wire = Wire::login(p.port()).await;
        assert_eq!(wire.ask("BEGIN; INSERT INTO t VALUES (1)").await, "CCZ");
        wire.send(&sent).await;
        if sent[0] != b'Q' {
            wire.send(&message(b'S', b"")).await;
        }
        assert_eq!(wire.ready().await, answer, "{sent:?}");
        assert_eq!(wire.ask("SELECT 1").await, "E25P02Z");
        assert_eq!(wire.ask("ROLLBACK").await, "CZ");
        assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
    }
    assert_eq!(witness.ask("SELECT count(*) FROM t").await, "TDCZ");
    assert_eq!(witness.ask("COMMIT").await, "CZ");
    assert_eq!(rows(&p).await, 0);
}

#[tokio::test]
async fn a_login_that_drips_is_cut_off() {
    let p = Proxy::start_with(1, 1, |c| c.limits.login_timeout = Duration::from_millis(700)).await;
    let bytes = startup(DATABASE);
    let started = std::time::Instant::now();
    // One that says nothing, one that stops within its packet, one that stops at the password.
    let mut silent = Wire::dial(p.port()).await;
    let mut half = Wire::dial(p.port()).await;
    half.send(&bytes[..10]).await;
    let mut shy = Wire::dial(p.port()).await;
    shy.send(&bytes).await;
    assert_eq!(shy.next().await.expect("a request for SASL").0, b'R');
    for wire in [&mut silent, &mut half, &mut shy] {
        while wire.next().await.is_some() {}
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(value::<i32>(&p.client().await, "SELECT 1").await, 1);
}
