//! Logins: what they are told, and what they cost those who are in already.

use super::wire::{Wire, query};
use super::*;

#[tokio::test]
async fn a_login_is_told_the_parameters_that_will_be_in_force() {
    let p = narrow().await;
    let default: String = value(&node(&p).await, "SHOW TimeZone").await;
    let mut one = Wire::login(p.port()).await;
    assert_eq!(one.told["TimeZone"], default);
    // The connection has the zone in force already when the next client wants the same.
    assert_eq!(one.ask("SET TimeZone = 'Asia/Tokyo'").await, "CSZ");
    let two = Wire::login_with(p.port(), &[("TimeZone", "Asia/Tokyo")]).await;
    assert_eq!(two.told["TimeZone"], "Asia/Tokyo");
    let three = Wire::login_with(p.port(), &[("application_name", "three")]).await;
    assert_eq!(three.told["TimeZone"], default);
    assert_eq!(three.told["application_name"], "three");
    let four = Wire::login_with(p.port(), &[("application_name", "four")]).await;
    assert_eq!(four.told["application_name"], "four");
    let strange = Wire::login_with(p.port(), &[("application_name", "f\u{fc}nf")]).await;
    assert_eq!(strange.told["application_name"], "f??nf");
}

#[tokio::test]
async fn a_full_pool_does_not_delay_logins() {
    let p = narrow().await;
    let mut holder = Wire::login(p.port()).await;
    assert_eq!(holder.ask("BEGIN; SELECT 1").await, "CTDCZ");
    let mut line = Vec::new();
    for n in 0..10 {
        let mut wire = Wire::login(p.port()).await;
        wire.send(&query("SELECT 1")).await;
        line.push(wire);
        wait_for_line(&p, n + 1).await;
    }
    // One that nothing is known of has to ask the server.
    let mut unknown = Wire::dial(p.port()).await;
    unknown.send(&super::wire::startup_with(DATABASE, &[("work_mem", "1MB")])).await;
    wait_for_line(&p, 11).await;
    assert_eq!(holder.ask("COMMIT").await, "CZ");
    for mut wire in line {
        assert_eq!(wire.ready().await, "TDCZ");
    }
    assert!(unknown.ready().await.ends_with('Z'));
    assert_eq!(unknown.ask("SHOW work_mem").await, "TDCZ");
}
