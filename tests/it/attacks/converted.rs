//! What an owner has put under a table's name on one node is not read with pgshunt's rights when the table's rows
//! come back from there.

use crate::support::*;

/// Says who runs it, if that is a superuser.
const SPY: &str = "\
CREATE FUNCTION spy() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RAISE EXCEPTION 'caught as %', current_user;
  END IF;
  RETURN 1;
END $$";

#[tokio::test]
async fn nothing_that_bears_a_tables_name_on_a_node_runs_as_the_service_role() {
    let p = Proxy::start(2, 2).await;
    let admin = p.client().await;
    admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'secret'").await.unwrap();
    admin.batch_execute("GRANT CREATE ON SCHEMA public TO alice").await.unwrap();
    let alice = connect_as(p.port(), DATABASE, "alice", "secret").await.unwrap();
    for name in ["viewed", "counted"] {
        let sql = format!("CREATE TABLE {name} (k int, id serial) PARTITION BY HASH (k)");
        alice.batch_execute(&sql).await.unwrap();
        alice.batch_execute(&format!("INSERT INTO {name} VALUES (1), (2), (3)")).await.unwrap();
    }
    let root = connect(p.nodes.nodes[1].port()).await;
    root.batch_execute("GRANT CREATE ON SCHEMA public TO alice").await.unwrap();
    let own = connect_as(p.nodes.nodes[1].port(), DATABASE, "alice", "secret").await.unwrap();
    for sql in [
        SPY,
        "ALTER TABLE viewed RENAME TO aside",
        "CREATE VIEW viewed AS SELECT spy()::int AS k, 1 AS id",
        "ALTER TABLE counted ALTER id DROP DEFAULT",
        "DROP SEQUENCE counted_id_seq",
        "CREATE VIEW counted_id_seq AS SELECT spy() AS last_value, true AS is_called",
    ] {
        own.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let sprung = root.batch_execute("SELECT * FROM viewed").await.unwrap_err();
    assert!(format!("{sprung:?}").contains("caught"), "{sprung:?}");
    for name in ["viewed", "counted"] {
        let e = alice.batch_execute(&format!("SELECT undistribute_table('{name}')")).await;
        let e = e.expect_err(name);
        assert!(!format!("{e:?}").contains("caught"), "{name}: {e:?}");
        assert_eq!(e.code().unwrap().code(), "42809", "{name}: {e:?}");
    }
}
