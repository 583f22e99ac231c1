//! The functions by which every node completes what a client's transaction has begun (`pgshunt.settle`,
//! `pgshunt.make_shards`): they have the service role's rights, and anybody may call them.

use super::*;

/// Whoever evaluates it as a superuser is told.
const TRAP: &str = "
    CREATE FUNCTION trap() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN
      IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN RAISE EXCEPTION ''sprung''; END IF;
      RETURN 1; END'";

async fn refusal(client: &tokio_postgres::Client, sql: &str) -> (String, String) {
    let e = client.batch_execute(sql).await.expect_err(sql);
    let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}"));
    (e.code().code().to_owned(), e.message().to_owned())
}

#[tokio::test]
async fn what_completes_a_table_evaluates_nothing_of_its_owners() {
    let p = Proxy::start_with(1, 1, |_| {}).await;
    let node = p.nodes.nodes[0].port();
    let root = connect(node).await;
    root.batch_execute(
        "CREATE ROLE mallory LOGIN PASSWORD 'mallory'; GRANT CREATE ON SCHEMA public TO mallory",
    )
    .await
    .unwrap();
    // The node gets the functions with the first such transaction.
    let client = p.client().await;
    for sql in ["BEGIN", "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id)", "COMMIT"] {
        client.batch_execute(sql).await.unwrap();
    }
    let mallory = connect_as(node, DATABASE, "mallory", "mallory").await.unwrap();
    mallory.batch_execute(TRAP).await.unwrap();
    let announced = "INSERT INTO pgshunt.announced VALUES ('public', 'own', 'mallory', '{90}', 1, '{0}', 1, 64)";
    let makes = "SELECT pgshunt.make_shards('public.own')";
    for own in [
        "CREATE TABLE own (id int, v int DEFAULT trap()) PARTITION BY HASH (id)",
        "CREATE TABLE own (id int, v int CHECK (v >= trap())) PARTITION BY HASH (id)",
        "CREATE TABLE own (id int) PARTITION BY HASH (id); CREATE INDEX ON own ((trap() + id))",
        "CREATE TABLE own (id int) PARTITION BY HASH (id); CREATE INDEX ON own (id) WHERE trap() = 1",
        "CREATE TABLE own (id int) PARTITION BY HASH (id); CREATE INDEX ON ONLY own ((trap() + id))",
    ] {
        mallory.batch_execute(own).await.unwrap();
        assert_eq!(refusal(&mallory, makes).await.0, "55000", "nobody has announced it");
        assert_eq!(refusal(&mallory, announced).await.0, "42501", "nor can she");
        root.batch_execute(announced).await.unwrap();
        for sql in [makes, "SELECT pgshunt.settle('public.own')"] {
            let (code, message) = refusal(&mallory, sql).await;
            assert_eq!(code, "0A000", "{own}; {sql}: {message}");
            assert_eq!(message, "a distributed table cannot use function public.trap()", "{own}");
        }
        root.batch_execute("DELETE FROM pgshunt.announced").await.unwrap();
        mallory.batch_execute("DROP TABLE own").await.unwrap();
    }
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'shard_90'";
    assert_eq!(value::<i64>(&root, made).await, 0);
}
