//! Roles made through pgshunt, and what they can do on every node.

use tokio_postgres::Client;

use super::*;

async fn code(client: &Client, sql: &str) -> String {
    let e = client.batch_execute(sql).await.expect_err(sql);
    e.code().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().to_owned()
}

async fn on_each(p: &Proxy, sql: &str) -> Vec<String> {
    let mut all = Vec::new();
    for node in &p.nodes.nodes {
        all.push(value(&connect(node.port()).await, sql).await);
    }
    all
}

/// Reads and writes on all nodes as who the client is.
async fn works(client: &Client, ids: std::ops::Range<i32>) {
    for id in ids.clone() {
        let text = format!("INSERT INTO work (id, who) VALUES ({id}, current_user)");
        client.batch_execute(&text).await.unwrap();
        let who: String =
            value(client, &format!("SELECT who || session_user FROM work WHERE id = {id}")).await;
        assert_eq!(who, "annann");
    }
    assert!(value::<i64>(client, "SELECT count(*) FROM work").await >= i64::from(ids.end));
}

#[tokio::test]
async fn a_role_made_through_pgshunt_works_on_all_nodes_with_its_newest_password() {
    let p = Proxy::start(3, 3).await;
    let root = p.client().await;
    root.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'one'").await.unwrap();
    root.batch_execute("GRANT CREATE ON SCHEMA public TO ann").await.unwrap();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'";
    let first = on_each(&p, verifier).await;
    assert!(first[0].starts_with("SCRAM-SHA-256$") && first.iter().all(|v| *v == first[0]));

    let log_in = async |password: &str| connect_as(p.port(), DATABASE, "ann", password).await;
    let old = log_in("one").await.unwrap();
    old.batch_execute("CREATE TABLE work (id int PRIMARY KEY, who text) PARTITION BY HASH (id)")
        .await
        .unwrap();
    works(&old, 0..40).await;
    let seen =
        on_each(&p, "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE usename = 'ann'")
            .await;
    assert_eq!(seen, ["true"; 3]);

    // By the extended protocol, as drivers do.
    root.execute("ALTER ROLE ann PASSWORD 'two'", &[]).await.unwrap();
    let second = on_each(&p, verifier).await;
    assert!(second[0] != first[0] && second.iter().all(|v| *v == second[0]));
    works(&old, 40..60).await;
    let e = log_in("one").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "28P01");
    let new = log_in("two").await.unwrap();
    works(&new, 60..80).await;
    works(&old, 80..90).await;

    root.batch_execute("CREATE ROLE readers").await.unwrap();
    root.batch_execute("GRANT readers TO ann").await.unwrap();
    let member = "SELECT pg_has_role('ann', 'readers', 'member')::text";
    assert_eq!(on_each(&p, member).await, ["true"; 3]);
    drop((old, new));
    root.batch_execute("DROP TABLE work").await.unwrap();
    root.batch_execute("REVOKE CREATE ON SCHEMA public FROM ann").await.unwrap();
    root.batch_execute("DROP ROLE ann").await.unwrap();
    let left = "SELECT count(*)::text FROM pg_roles WHERE rolname = 'ann'";
    assert_eq!(on_each(&p, left).await, ["0"; 3]);
    let e = log_in("two").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "28P01");
}

#[tokio::test]
async fn a_statement_on_roles_is_alone_when_there_are_several_nodes() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    root.batch_execute("BEGIN").await.unwrap();
    assert_eq!(code(&root, "CREATE ROLE ann").await, "0A000");
    root.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(code(&root, "CREATE ROLE ann; CREATE ROLE bob").await, "0A000");
    for text in [
        "DO $$BEGIN CREATE ROLE ann; END$$",
        "DO $$BEGIN EXECUTE format('create  user %I', 'ann'); END$$",
    ] {
        assert_eq!(code(&root, text).await, "0A000", "{text}");
    }
    root.batch_execute("DO $$BEGIN PERFORM 'the role of a user'; END$$").await.unwrap();
    let names = "SELECT coalesce(string_agg(rolname, ' ' ORDER BY rolname), '') FROM pg_roles \
        WHERE rolname IN ('ann', 'bob')";
    assert_eq!(on_each(&p, names).await, [""; 2]);
    // Other databases have the same roles.
    let other = connect_as(p.port(), "postgres", SUPERUSER, PASSWORD).await.unwrap();
    other.batch_execute("CREATE ROLE ann").await.unwrap();
    root.batch_execute("CREATE ROLE bob").await.unwrap();
    other.batch_execute("GRANT ann TO bob").await.unwrap();
    assert_eq!(on_each(&p, names).await, ["ann bob"; 2]);
    let member = "SELECT pg_has_role('bob', 'ann', 'member')::text";
    assert_eq!(on_each(&p, member).await, ["true"; 2]);
    other.batch_execute("BEGIN").await.unwrap();
    assert_eq!(code(&other, "DROP ROLE bob").await, "0A000");
    other.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn one_node_does_with_roles_whatever_postgres_does() {
    let p = Proxy::start(1, 1).await;
    let root = p.client().await;
    root.batch_execute("BEGIN; CREATE ROLE ann; ALTER ROLE ann LOGIN; ROLLBACK").await.unwrap();
    root.batch_execute("CREATE ROLE ann; CREATE ROLE bob; GRANT ann TO bob").await.unwrap();
    root.batch_execute("BEGIN; DROP ROLE ann, bob; COMMIT").await.unwrap();
    root.batch_execute("DO $$BEGIN CREATE ROLE ann; DROP ROLE ann; END$$").await.unwrap();
}
