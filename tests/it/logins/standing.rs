//! A role is changed, dropped or made anew: whoever logs in from then on has nothing of what it was
//! before, though its server connections are older.

use tokio_postgres::Client;

use super::*;

/// Three connections in turn, so that an old one among them shows.
const SIZE: usize = 3;

async fn proxy() -> Proxy {
    Proxy::start_with(2, 2, |c| {
        c.pool.size = SIZE;
        c.pool.min_size = SIZE;
        c.pool.server_round_robin = true;
        c.server.workers = 1;
    })
    .await
}

/// What each connection says, in turn.
async fn in_turn(client: &Client, sql: &str) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..2 * SIZE {
        said.extend(texts(client, sql).await);
    }
    said.sort_unstable();
    said.dedup();
    said
}

/// All connections of the pool have been opened and used.
async fn filled(client: &Client) {
    wait_for("the pool to be filled", async || {
        let pids = in_turn(client, "SELECT pg_backend_pid()").await;
        (pids.len() == SIZE).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_login_has_nothing_of_what_its_role_was_before() {
    let p = proxy().await;
    let (admin, direct) = (p.client().await, connect(p.nodes.nodes[0].port()).await);
    let log_in = async |user: &str| connect_as(p.port(), DATABASE, user, "a").await.unwrap();
    let used = async |user: &str| filled(&log_in(user).await).await;
    let may_be = async |user: &str| {
        let client = log_in(user).await;
        let tried = client.batch_execute(&format!("SET SESSION AUTHORIZATION {SUPERUSER}")).await;
        let code = tried.err().map(|e| e.code().unwrap().code().to_owned());
        assert_eq!(in_turn(&client, "SELECT current_user").await.len(), 1);
        code
    };
    let denied = || Some("42501".to_owned());
    for (change, by) in
        [("ALTER ROLE rr NOSUPERUSER", &admin), ("ALTER USER rr NOSUPERUSER", &direct)]
    {
        admin.batch_execute("CREATE ROLE rr LOGIN SUPERUSER PASSWORD 'a'").await.unwrap();
        used("rr").await;
        by.batch_execute(change).await.unwrap();
        assert_eq!(may_be("rr").await, denied(), "{change}");
        // Another role of the name.
        used("rr").await;
        let stays = log_in("rr").await;
        admin.batch_execute("ALTER ROLE rr SUPERUSER").await.unwrap();
        used("rr").await;
        admin.batch_execute("DROP ROLE rr").await.unwrap();
        admin.batch_execute("CREATE ROLE rr LOGIN PASSWORD 'a'").await.unwrap();
        assert_eq!(may_be("rr").await, denied());
        let client = log_in("rr").await;
        assert_eq!(in_turn(&client, "SELECT current_user").await, ["rr"]);
        assert_eq!(in_turn(&client, "SHOW is_superuser").await, ["off"]);
        let gone = stays.batch_execute("SELECT 1").await.unwrap_err();
        assert!(gone.is_closed() || gone.code().unwrap().code() == "57P01", "{gone:?}");
        drop(client);
        admin.batch_execute("DROP ROLE rr").await.unwrap();
    }
    // A name that another role has left.
    admin.batch_execute("CREATE ROLE one LOGIN SUPERUSER PASSWORD 'a'").await.unwrap();
    used("one").await;
    for sql in ["ALTER ROLE one RENAME TO two", "CREATE ROLE one LOGIN PASSWORD 'a'"] {
        admin.batch_execute(sql).await.unwrap();
    }
    assert_eq!(may_be("one").await, denied());
    // What is set for it, in each of the ways there are.
    admin.batch_execute("CREATE ROLE rs LOGIN PASSWORD 'a'").await.unwrap();
    for (n, (sql, by)) in [
        ("ALTER ROLE rs SET work_mem = ", &admin),
        ("ALTER ROLE rs IN DATABASE {d} SET work_mem = ", &admin),
        ("ALTER ROLE rs IN DATABASE {d} RESET work_mem; ALTER ROLE rs SET work_mem = ", &direct),
        ("ALTER ROLE rs RESET ALL; ALTER DATABASE {d} SET work_mem = ", &direct),
        ("ALTER DATABASE {d} RESET work_mem; ALTER ROLE ALL SET work_mem = ", &direct),
    ]
    .into_iter()
    .enumerate()
    {
        used("rs").await;
        let value = format!("{}MB", 11 + n);
        let sql = format!("{}'{value}'", sql.replace("{d}", &format!("\"{DATABASE}\"")));
        by.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let client = log_in("rs").await;
        assert_eq!(in_turn(&client, "SHOW work_mem").await, [value], "{sql}");
    }
    // Its password alone renews nothing.
    used("rs").await;
    let pids = async || in_turn(&log_in("rs").await, "SELECT pg_backend_pid()").await;
    let before = pids().await;
    direct.batch_execute("ALTER ROLE rs PASSWORD 'a'").await.unwrap();
    assert_eq!(pids().await, before);
    // Nobody comes in by a connection that could not be opened any more.
    let code = |e: tokio_postgres::Error| e.code().unwrap().code().to_owned();
    let limit = async |n: i32| {
        direct.batch_execute(&format!("ALTER ROLE rs CONNECTION LIMIT {n}")).await.unwrap();
        connect_as(p.port(), DATABASE, "rs", "a").await.map(drop).map_err(code)
    };
    assert_eq!(limit(0).await, Err("53300".to_owned()));
    assert_eq!(limit(-1).await, Ok(()));
}
