//! Session parameters and roles, on one server connection that two clients share, and on three that take
//! turns.

use super::*;

/// work_mem as both see it.
async fn each_has(a: (&Client, &str), b: (&Client, &str)) {
    for _ in 0..2 {
        for (client, wanted) in [a, b] {
            assert_eq!(show(client, "work_mem").await, wanted);
        }
    }
}

#[tokio::test]
async fn a_set_is_its_sessions_own_until_reset() {
    for (proxy, a, b) in worlds().await {
        for (set, reset) in [
            ("SET work_mem = '1MB'", "RESET work_mem"),
            ("SET SESSION work_mem TO 1024", "SET work_mem TO DEFAULT"),
            ("SELECT set_config('work_mem', '1MB', false)", "RESET ALL"),
            (
                "SELECT set_config('work_mem', '1MB', false)",
                "SELECT set_config('work_mem', '4MB', false)",
            ),
            ("DO 'BEGIN SET work_mem = 1024; END'", "DO 'BEGIN RESET work_mem; END'"),
            ("BEGIN; SET work_mem = '1MB'; COMMIT", "BEGIN; RESET work_mem; COMMIT"),
            ("SET work_mem = '1MB'", "DISCARD ALL"),
        ] {
            println!("{set}");
            does(&a, set).await;
            each_has((&a, "1MB"), (&b, "4MB")).await;
            does(&b, "SET work_mem = '2MB'").await;
            each_has((&a, "1MB"), (&b, "2MB")).await;
            does(&a, reset).await;
            each_has((&a, "4MB"), (&b, "2MB")).await;
            does(&b, "RESET work_mem").await;
        }
        assert_eq!(pinned_by(&proxy).await, ["", ""]);
    }
}

#[tokio::test]
async fn a_set_that_was_rolled_back_has_not_been() {
    for (_proxy, a, b) in worlds().await {
        does(&a, "SET work_mem = '2MB'").await;
        for undone in [
            "BEGIN; SET work_mem = '1MB'; ROLLBACK",
            "BEGIN; SELECT set_config('work_mem', '1MB', false); ROLLBACK",
            "BEGIN; DO 'BEGIN SET work_mem = 1024; END'; ROLLBACK",
            "BEGIN; SAVEPOINT s; SET work_mem = '1MB'; ROLLBACK TO s; COMMIT",
            "BEGIN; SET LOCAL work_mem = '1MB'; COMMIT",
            "BEGIN; SELECT set_config('work_mem', '1MB', true); COMMIT",
            "BEGIN; RESET work_mem; ROLLBACK",
            "BEGIN; SET TRANSACTION READ ONLY; SET LOCAL work_mem = '1MB'; ROLLBACK AND CHAIN; COMMIT",
        ] {
            println!("{undone}");
            does(&a, undone).await;
            each_has((&a, "2MB"), (&b, "4MB")).await;
        }
        assert_eq!(fails(&a, "SET work_mem = '1MB'; SELECT 1/0").await, "22012");
        each_has((&a, "2MB"), (&b, "4MB")).await;
    }
}

#[tokio::test]
async fn the_defaults_of_a_role_are_its_own() {
    for (proxy, a, b) in worlds().await {
        does(&a, "CREATE ROLE tuned LOGIN PASSWORD 'x'; ALTER ROLE tuned SET work_mem = '1MB'")
            .await;
        let tuned = connect_as(proxy.port(), DATABASE, "tuned", "x").await.unwrap();
        each_has((&tuned, "1MB"), (&b, "4MB")).await;
        does(&tuned, "SET work_mem = '2MB'").await;
        each_has((&tuned, "2MB"), (&b, "4MB")).await;
        does(&tuned, "RESET ALL").await;
        each_has((&tuned, "1MB"), (&b, "4MB")).await;
        does(&tuned, "SET work_mem = '2MB'; SET work_mem TO DEFAULT").await;
        each_has((&tuned, "1MB"), (&b, "4MB")).await;
    }
}

/// current_user and session_user as the client is.
async fn who(client: &Client) -> String {
    value(client, "SELECT current_user || '/' || session_user").await
}

#[tokio::test]
async fn a_role_that_was_set_serves_nobody_else() {
    for (proxy, a, b) in worlds().await {
        does(&a, "CREATE ROLE poor; CREATE ROLE poorer; CREATE TABLE secret (n int)").await;
        let own = format!("{SUPERUSER}/{SUPERUSER}");
        for (set, is, reset) in [
            ("SET ROLE poor", "poor/postgres", "RESET ROLE"),
            ("SET ROLE poor", "poor/postgres", "SET ROLE NONE"),
            ("SET ROLE poor", "poor/postgres", "DISCARD ALL"),
            ("SELECT set_config('role', 'poor', false)", "poor/postgres", "RESET ROLE"),
            ("DO 'BEGIN SET ROLE poor; END'", "poor/postgres", "RESET ROLE"),
            ("SET SESSION AUTHORIZATION poor", "poor/poor", "RESET SESSION AUTHORIZATION"),
            ("SET SESSION AUTHORIZATION poor", "poor/poor", "SET SESSION AUTHORIZATION DEFAULT"),
            (
                "DO 'BEGIN SET SESSION AUTHORIZATION poor; END'",
                "poor/poor",
                "RESET SESSION AUTHORIZATION",
            ),
            ("SET SESSION AUTHORIZATION poor", "poor/poor", "DISCARD ALL"),
        ] {
            println!("{set}");
            does(&a, set).await;
            assert_eq!((who(&b).await, who(&a).await), (own.clone(), is.to_owned()), "{set}");
            assert_eq!(fails(&a, "SELECT n FROM secret").await, "42501");
            does(&b, "SELECT n FROM secret").await;
            does(&b, "SET ROLE poorer").await;
            assert_eq!((who(&b).await, who(&a).await), ("poorer/postgres".into(), is.to_owned()));
            does(&a, reset).await;
            assert_eq!(who(&a).await, own, "{set}; {reset}");
            does(&b, "RESET ROLE").await;
            assert_eq!((who(&a).await, who(&b).await), (own.clone(), own.clone()));
        }
        does(&a, "BEGIN; SET LOCAL ROLE poor").await;
        assert_eq!(who(&a).await, "poor/postgres");
        does(&a, "COMMIT").await;
        assert_eq!((who(&b).await, who(&a).await), (own.clone(), own));
        assert_eq!(pinned_by(&proxy).await, ["", ""]);
    }
}

#[tokio::test]
async fn discard_leaves_others_what_they_have() {
    for (_proxy, a, b) in worlds().await {
        let prepared = b.prepare("SELECT $1::int + 1").await.unwrap();
        does(&b, "SET work_mem = '2MB'").await;
        for discard in [
            "DISCARD ALL",
            "DISCARD TEMP",
            "DISCARD PLANS",
            "DISCARD SEQUENCES",
            "DEALLOCATE ALL",
            "RESET ALL",
        ] {
            does(&a, "SET work_mem = '1MB'").await;
            does(&a, discard).await;
            let own = if matches!(discard, "DISCARD ALL" | "RESET ALL") { "4MB" } else { "1MB" };
            each_has((&a, own), (&b, "2MB")).await;
            assert_eq!(
                b.query_one(&prepared, &[&1]).await.unwrap().get::<_, i32>(0),
                2,
                "{discard}"
            );
            does(&a, "RESET work_mem").await;
        }
        let mine = a.prepare("SELECT 1").await.unwrap();
        does(&a, "DISCARD ALL").await;
        let gone = a.query(&mine, &[]).await.unwrap_err();
        assert_eq!(gone.code().unwrap().code(), "26000", "its own are gone");
    }
}

/// A parameter of a library that has not been loaded yet: a mere placeholder. A library is loaded by a
/// server process: on another one its parameters are placeholders still.
#[tokio::test]
async fn a_parameter_of_a_library_not_loaded_yet() {
    let (_proxy, a, b) = two_on_one().await;
    does(&a, "SET plpgsql.extra_warnings = 'all'").await;
    does(&b, "DO 'BEGIN PERFORM 1; END'").await;
    assert_eq!(show(&a, "plpgsql.extra_warnings").await, "all");
    does(&a, "DO 'BEGIN PERFORM 1; END'").await;
    assert_eq!(show(&b, "plpgsql.extra_warnings").await, "none");
}
