//! What comes of a statement, and what the client is told of it.

use super::*;

/// What `now()`, `current_user` or a setting gives is the same for all rows, wherever they are.
#[tokio::test]
async fn the_default_of_an_added_column_is_computed_once_for_all_nodes() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id int, v int) PARTITION BY HASH (id)").await;
    for client in &c.clients {
        for id in 1..20 {
            // Into whichever leaves are here.
            let _ = client.batch_execute(&format!("INSERT INTO t VALUES ({id}, 1)")).await;
        }
    }
    let settings = vec![setting("TimeZone", "Asia/Tokyo"), setting("app.tenant", "x-y")];
    for sql in [
        "ALTER TABLE t ADD COLUMN at timestamptz NOT NULL DEFAULT now(), ADD who text DEFAULT current_user",
        "ALTER TABLE t ADD zone text DEFAULT current_setting('TimeZone')",
        "ALTER TABLE t ADD tenant text DEFAULT upper(current_setting('app.tenant'))",
        "ALTER TABLE t ADD today date DEFAULT CURRENT_DATE, ADD span interval DEFAULT '1 mon -3 days'",
        "ALTER TABLE t ADD login name DEFAULT session_user, ADD nothing int DEFAULT nullif(1, 1)",
        "ALTER TABLE t ADD bytes bytea DEFAULT '\\x00ff', ADD list text[] DEFAULT ARRAY['a,b', NULL]",
        "ALTER TABLE t ADD f float8 DEFAULT 1 / 3::float8, ADD j jsonb DEFAULT '{\"a\": 1}'",
    ] {
        let request = DdlRequest::new("alice", settings.clone(), sql);
        ddl::execute(&c.store, &request).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let rows = "SELECT string_agg(DISTINCT concat_ws('|', at AT TIME ZONE 'UTC', who, zone, tenant, today, span, \
        login, nothing, bytes, list, f, j), ' & ') FROM t";
    let each: Vec<String> = c.on_each(rows).await;
    assert_eq!(each[0], each[1]);
    assert!(!each[0].contains(" & ") && each[0].contains("|alice|Asia/Tokyo|X-Y|"), "{each:?}");
    let defaults = "SELECT string_agg(pg_get_expr(adbin, adrelid), ' ' ORDER BY adnum) FROM pg_attrdef \
        WHERE adrelid = 't'::regclass";
    let each: Vec<String> = c.on_each(defaults).await;
    assert_eq!(each[0], each[1]);
    assert!(each[0].starts_with("now() CURRENT_USER"), "{each:?}");
    // What each row would compute for itself is done by a superuser only.
    let e = c.refused("ALTER TABLE t ADD r float DEFAULT random()").await;
    assert!(e.sqlstate == "0A000" && e.message.contains("each row"), "{e:?}");
    c.root("ALTER TABLE t ADD r float DEFAULT random()").await;
    c.alice("ALTER TABLE t DROP COLUMN at, DROP COLUMN IF EXISTS nosuch, ALTER v SET DEFAULT 3")
        .await;
    let skipped = c.run_as("alice", "ALTER TABLE t ADD COLUMN IF NOT EXISTS v int").await.unwrap();
    assert_eq!(
        skipped.notices[0].message,
        "column \"v\" of relation \"t\" already exists, skipping"
    );
}

#[tokio::test]
async fn an_error_has_the_fields_that_the_node_gave_it() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    root.batch_execute("CREATE TABLE d (id int, v int) PARTITION BY HASH (id)").await.unwrap();
    root.batch_execute("INSERT INTO d VALUES (1, 1), (1, 1)").await.unwrap();
    let error = async |sql: &str| {
        let e = root.batch_execute(sql).await.expect_err(sql);
        e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).clone()
    };
    let e = error("ALTER TABLE d ADD PRIMARY KEY (id)").await;
    assert_eq!(e.code().code(), "23505");
    assert_eq!((e.table(), e.constraint()), (Some("d"), Some("d_pkey")), "{e:?}");
    assert!(e.detail().is_some() && e.routine().is_some() && e.line().is_some(), "{e:?}");
    assert_eq!(e.where_(), None);
    let at = |sql: &str, word: &str| {
        let position = u32::try_from(sql[..sql.find(word).unwrap()].chars().count() + 1).unwrap();
        Some(tokio_postgres::error::ErrorPosition::Original(position))
    };
    for (sql, word) in [
        ("CREATE TABLE e (ü int, id int CHECK (nosuch > 1)) PARTITION BY HASH (id)", "nosuch"),
        ("CREATE INDEX i ON d ((v + nosuch))", "nosuch"),
        ("CREATE INDEX i ON /* ü */ public.d (v) WHERE nosuch > 1", "nosuch"),
    ] {
        let e = error(sql).await;
        assert_eq!(e.position(), at(sql, word).as_ref(), "{sql}: {e:?}");
        assert_eq!(e.where_(), None, "{sql}");
    }
}

#[tokio::test]
async fn notices_are_bounded_and_a_refused_statement_is_undone_before_its_answer() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    c.clients[0]
        .batch_execute(
            "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN FOR i IN 1..3000 LOOP \
               RAISE NOTICE 'turn %', i; END LOOP; RETURN NULL; END$$; \
             CREATE TRIGGER tr BEFORE TRUNCATE ON t EXECUTE FUNCTION loud(); CREATE SEQUENCE s",
        )
        .await
        .unwrap();
    let outcome = c.run_as(SUPERUSER, "TRUNCATE t").await.unwrap();
    let texts: Vec<&str> = outcome.notices.iter().map(|n| n.message.as_str()).collect();
    assert_eq!(texts.len(), 1001);
    assert_eq!(
        (texts[0], texts[1000]),
        ("turn 1", "2000 more notices of this statement are left out")
    );

    let open = "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL \
        AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    for _ in 0..10 {
        let e = c.refused(
            "CREATE TABLE u (x int, y int DEFAULT nextval('s'), z bigserial) PARTITION BY HASH (x)",
        );
        assert_eq!(e.await.sqlstate, "0A000");
        assert_eq!(c.on_each::<i64>(open).await, [0, 0]);
    }
}

#[tokio::test]
async fn a_sequence_is_restarted_on_all_nodes_each_with_its_own_values() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    root.batch_execute("CREATE TABLE d (k int, id bigserial) PARTITION BY HASH (k)").await.unwrap();
    let mut nodes = Vec::new();
    for node in &p.nodes.nodes {
        nodes.push(connect(node.port()).await);
    }
    let next = async || {
        let mut all: Vec<i64> = Vec::new();
        for node in &nodes {
            all.push(value(node, "SELECT nextval('public.d_id_seq')").await);
        }
        all
    };
    assert_eq!(next().await, [1, 2]);
    root.batch_execute("ALTER SEQUENCE d_id_seq RESTART WITH 1000").await.unwrap();
    let first = next().await;
    assert!(first.iter().all(|v| (1000..1032).contains(v)) && first[0] != first[1], "{first:?}");
    assert_eq!(next().await, [first[0] + 32, first[1] + 32]);
    root.batch_execute("ALTER SEQUENCE public.d_id_seq RESTART").await.unwrap();
    assert_eq!(next().await, [1, 2]);
    for sql in [
        "SELECT setval('d_id_seq', 100)",
        "SELECT setval('public.\"d_id_seq\"', 100)",
        "SELECT setval('d_id_seq'::regclass, 100)",
        "ALTER SEQUENCE d_id_seq INCREMENT BY 2",
        "DROP SEQUENCE d_id_seq",
    ] {
        let e = root.batch_execute(sql).await.expect_err(sql);
        let e = e.as_db_error().unwrap().clone();
        assert_eq!(e.code().code(), "0A000", "{sql}: {e:?}");
        assert!(e.hint().is_some_and(|h| h.contains("RESTART")), "{sql}: {e:?}");
    }
    root.batch_execute("CREATE SEQUENCE other_d_id_seq").await.unwrap();
    root.batch_execute("SELECT setval('other_d_id_seq', 100)").await.unwrap();
}
