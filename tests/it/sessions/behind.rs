//! What functions behind tables leave on a server connection: those of triggers, defaults, rules,
//! views. No text shows them, and nobody else may find it.

use super::*;

/// A parameter of the session's is set by whatever is behind a table: it is the session's, as with a
/// connection of its own, and nobody else's.
#[tokio::test]
async fn what_is_behind_a_table_is_left_to_nobody() {
    let (proxy, a, b) = two_on_one().await;
    does(
        &a,
        "CREATE ROLE other; CREATE SCHEMA tenant;
         CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM set_config('work_mem', '1MB', false); RETURN NEW; END $$;
         CREATE FUNCTION value(n int) RETURNS int LANGUAGE plpgsql AS $$
           BEGIN SET work_mem = 1024; RETURN n; END $$;
         CREATE TABLE triggered (n int);
         CREATE TRIGGER t BEFORE INSERT OR UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION sets();
         CREATE VIEW over_it AS SELECT * FROM triggered;
         CREATE TABLE defaulted (m int, n int DEFAULT value(1));
         CREATE TABLE builtin (m int, n text DEFAULT set_config('work_mem', '1MB', false));
         CREATE TABLE checked (n int CHECK (value(n) > 0));
         CREATE VIEW seen AS SELECT set_config('work_mem', '1MB', false);
         CREATE VIEW twice AS SELECT * FROM seen;
         CREATE TABLE ruled (n int);
         CREATE RULE r AS ON INSERT TO ruled DO ALSO INSERT INTO triggered VALUES (NEW.n);
         CREATE TABLE referenced (n int PRIMARY KEY); INSERT INTO referenced VALUES (1);
         CREATE TABLE referring (n int REFERENCES referenced ON UPDATE CASCADE);
         INSERT INTO referring VALUES (1);
         CREATE TRIGGER t BEFORE UPDATE ON referring FOR EACH ROW EXECUTE FUNCTION sets();
         CREATE TABLE whole (n int) PARTITION BY LIST (n);
         CREATE TABLE part PARTITION OF whole FOR VALUES IN (1);
         CREATE TRIGGER t BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION sets();
         CREATE TABLE heir () INHERITS (triggered)",
    )
    .await;
    for statement in [
        "INSERT INTO triggered VALUES (1)",
        "UPDATE public.triggered SET n = 2",
        "WITH i AS (INSERT INTO triggered VALUES (3) RETURNING n) SELECT n FROM i",
        "INSERT INTO over_it VALUES (1)",
        "INSERT INTO defaulted VALUES (1)",
        "INSERT INTO builtin VALUES (1)",
        "INSERT INTO checked VALUES (1)",
        "SELECT * FROM seen",
        "SELECT * FROM twice",
        "INSERT INTO ruled VALUES (1)",
        "UPDATE referenced SET n = n + 1",
        "INSERT INTO whole VALUES (1)",
        "EXPLAIN ANALYZE INSERT INTO triggered VALUES (1)",
    ] {
        println!("{statement}");
        does(&a, statement).await;
        assert_eq!(show(&b, "work_mem").await, "4MB", "{statement}");
        assert_eq!(show(&a, "work_mem").await, "1MB", "{statement}");
        does(&a, "RESET work_mem").await;
        let prepared = a.prepare(statement).await.unwrap();
        a.query(&prepared, &[]).await.unwrap();
        assert_eq!(show(&b, "work_mem").await, "4MB", "{statement}, prepared");
        assert_eq!(show(&a, "work_mem").await, "1MB", "{statement}, prepared");
        does(&a, "RESET work_mem").await;
    }
    assert_eq!(pinned_by(&proxy).await, ["", ""]);
}

/// The table is used before it is known what is behind it, and by whom it was changed.
#[tokio::test]
async fn a_trigger_that_has_just_been_made_is_known() {
    let (proxy, a, b) = two_on_one().await;
    does(&a, "CREATE TABLE t (n int); CREATE ROLE other; INSERT INTO t VALUES (1)").await;
    for (sets, parameter) in [("search_path", "tenant"), ("role", "other"), ("app.tenant", "7")] {
        does(
            &b,
            &format!(
                "CREATE OR REPLACE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS $$
                   BEGIN PERFORM set_config('{sets}', '{parameter}', false); RETURN NEW; END $$;
                 CREATE TRIGGER t AFTER INSERT ON t EXECUTE FUNCTION sets()"
            ),
        )
        .await;
        let before = show(&b, sets).await;
        let c = proxy.client().await;
        does(&c, "INSERT INTO public.t VALUES (1)").await;
        assert_eq!(show(&b, sets).await, before);
        assert_eq!(show(&c, sets).await, parameter);
        drop(c);
        does(&b, "DROP TRIGGER t ON t").await;
    }
}

#[tokio::test]
async fn a_lock_that_a_trigger_takes_is_the_sessions() {
    let proxy = shared(2).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    does(
        &a,
        "CREATE TABLE t (n int);
         CREATE FUNCTION locks() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_advisory_lock(1); RETURN NEW; END $$;
         CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION locks()",
    )
    .await;
    does(&a, "INSERT INTO t VALUES (1)").await;
    assert!(!value::<bool>(&b, "SELECT pg_try_advisory_lock(1)").await, "it is the other's");
    assert!(value::<bool>(&a, "SELECT pg_advisory_unlock(1)").await);
    assert!(value::<bool>(&b, "SELECT pg_try_advisory_lock(1)").await);
}
