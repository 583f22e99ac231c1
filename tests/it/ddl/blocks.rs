//! DDL within a client's transaction, on all nodes with it.

use tokio_postgres::Client;

use crate::support::*;

/// A cluster with a table `t` of a role that may do nothing else, and a client of that role.
struct Shop {
    p: Proxy,
    alice: Client,
}

impl Shop {
    async fn open() -> Self {
        let p = Proxy::start(2, 2).await;
        p.console().await.does("SET shard_count = 4").await;
        let admin = p.client().await;
        admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'secret'").await.unwrap();
        admin.batch_execute("GRANT CREATE ON SCHEMA public TO alice").await.unwrap();
        let alice = connect_as(p.port(), DATABASE, "alice", "secret").await.unwrap();
        let shop = Self { p, alice };
        shop.runs(&["CREATE TABLE t (k int PRIMARY KEY, a text) PARTITION BY HASH (k)"]).await;
        for k in 0..10 {
            shop.runs(&[&format!("INSERT INTO t VALUES ({k}, 'a{k}')")]).await;
        }
        shop
    }

    async fn runs(&self, texts: &[&str]) {
        for text in texts {
            self.alice.batch_execute(text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
        }
    }

    async fn fails(&self, text: &str) -> String {
        let error = self.alice.batch_execute(text).await.expect_err(text);
        error.code().expect(text).code().to_owned()
    }

    /// What one query says on every node; all say the same.
    async fn all_say(&self, sql: &str) -> String {
        let mut said = Vec::new();
        for node in &self.p.nodes.nodes {
            let client = connect(node.port()).await;
            client.batch_execute("SET search_path = public").await.unwrap();
            said.push(value::<String>(&client, sql).await);
        }
        said.dedup();
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }

    /// Columns, constraints, and indexes with those of the leaves, on all nodes.
    async fn shape(&self) -> String {
        self.all_say(SHAPE).await
    }

    async fn nothing_prepared(&self) {
        wait_for("prepared transactions to end", async || {
            let count = "SELECT count(*)::text FROM pg_prepared_xacts";
            (self.all_say(count).await == "0").then_some(())
        })
        .await;
    }
}

/// Of table t: its columns, its constraints, and whether every leaf has its own indexes by the same names.
const SHAPE: &str = "\
SELECT concat_ws('; ',
  (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END,
     pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum) FROM pg_attribute
     LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped),
  (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint
     WHERE conrelid = 't'::regclass AND contype <> 'n'),
  (SELECT string_agg(c.relname || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END, ', ' ORDER BY c.relname)
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 't'::regclass),
  (SELECT 'unlike: ' || string_agg(l.inhrelid::regclass || ' ' || x.relname, ', ')
     FROM pg_inherits l, pg_index p JOIN pg_class x ON x.oid = p.indexrelid
     WHERE l.inhparent = 't'::regclass AND p.indrelid = 't'::regclass AND NOT EXISTS (
       SELECT FROM pg_index li JOIN pg_class lx ON lx.oid = li.indexrelid
       WHERE li.indrelid = l.inhrelid AND li.indisvalid AND lx.relname = x.relname)))";

#[tokio::test]
async fn a_migration_counts_on_all_nodes_or_on_none() {
    let s = Shop::open().await;
    let before = s.shape().await;
    let migration = [
        "BEGIN",
        "CREATE TABLE migrations (id int)",
        "INSERT INTO migrations VALUES (1)",
        "ALTER TABLE t ADD COLUMN b int NOT NULL DEFAULT 5",
        "UPDATE t SET b = 7 WHERE k = 3",
        "CREATE INDEX t_b ON t (b)",
        "CREATE UNIQUE INDEX ON t (k, (lower(a))) WHERE b > 0",
        "ALTER TABLE t ADD CONSTRAINT few CHECK (b < 100) NOT VALID",
        "ALTER TABLE t VALIDATE CONSTRAINT few",
        "ALTER TABLE t ADD CONSTRAINT pair UNIQUE (k, b)",
        "ALTER TABLE t ALTER COLUMN b TYPE bigint, ALTER COLUMN a SET DEFAULT 'none'",
        "ALTER TABLE t RENAME COLUMN a TO c",
        "COMMENT ON COLUMN t.b IS 'how many'",
    ];
    s.runs(&migration).await;
    assert_eq!(value::<i64>(&s.alice, "SELECT b FROM t WHERE k = 3").await, 7);
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM t WHERE b = 5").await, 9);
    s.runs(&["ROLLBACK"]).await;
    assert_eq!(s.shape().await, before);
    assert_eq!(s.fails("SELECT FROM migrations").await, "42P01");

    s.runs(&migration).await;
    s.runs(&["COMMIT"]).await;
    assert_eq!(
        s.shape().await,
        "k integer not null, c text 'none'::text, b bigint not null 5; \
         few CHECK ((b < 100)), pair UNIQUE (k, b), t_pkey PRIMARY KEY (k); \
         pair, t_b, t_k_lower_idx, t_pkey"
    );
    // What is known of the table is what it is now, to others too.
    let other = s.p.client().await;
    other.batch_execute("INSERT INTO t VALUES (11, 'c', 1)").await.unwrap();
    assert_eq!(value::<i64>(&other, "SELECT b FROM t WHERE k = 3").await, 7);
    assert_eq!(s.fails("INSERT INTO t VALUES (11, 'c', 1)").await, "23505");
    assert_eq!(s.fails("INSERT INTO t VALUES (12, 'c', 100)").await, "23514");
    s.nothing_prepared().await;
}

#[tokio::test]
async fn the_transaction_sees_its_own_tables() {
    let s = Shop::open().await;
    // Where the key is, by what name, and which indexes there are.
    s.runs(&[
        "CREATE TABLE u (a int, k int, b int) PARTITION BY HASH (k)",
        "INSERT INTO u VALUES (1, 2, 3)",
        "BEGIN",
        "ALTER TABLE u DROP COLUMN a",
        "INSERT INTO u VALUES (5, 6)",
    ])
    .await;
    assert_eq!(value::<i32>(&s.alice, "SELECT b FROM u WHERE k = 5").await, 6);
    s.runs(&[
        "SAVEPOINT a",
        "ALTER TABLE u RENAME COLUMN k TO x",
        "ALTER TABLE u RENAME COLUMN b TO k",
        "UPDATE u SET k = 7 WHERE x = 5",
        "INSERT INTO u (k, x) VALUES (8, 9)",
    ])
    .await;
    assert_eq!(value::<i32>(&s.alice, "SELECT k FROM u WHERE x = 9").await, 8);
    s.runs(&["ROLLBACK TO a"]).await;
    assert_eq!(value::<i32>(&s.alice, "SELECT b FROM u WHERE k = 5").await, 6);
    s.runs(&[
        "CREATE INDEX here ON u (b)",
        "DROP INDEX here",
        "CREATE INDEX here ON u (b)",
        "RELEASE a",
        "COMMIT",
        "BEGIN",
        "DROP INDEX here",
        "TRUNCATE u, t",
        "LOCK TABLE u, t IN SHARE MODE",
        "COMMIT",
    ])
    .await;
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM u").await, 0);
    let left = "SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class WHERE relname = 'here'";
    assert_eq!(s.all_say(left).await, "");
}

#[tokio::test]
async fn tables_are_made_and_dropped_with_their_transaction() {
    let s = Shop::open().await;
    let other = s.p.client().await;
    let makes = [
        "BEGIN",
        "UPDATE t SET a = 'x' WHERE k = 1",
        "CREATE TABLE IF NOT EXISTS t (k int) PARTITION BY HASH (k)",
        "CREATE TABLE orders (tenant bigint, id bigserial, note text, PRIMARY KEY (tenant, id)) \
         PARTITION BY HASH (tenant)",
        "CREATE INDEX orders_note ON orders (note)",
        "INSERT INTO orders (tenant, note) VALUES (1, 'a')",
        "INSERT INTO orders (tenant, note) VALUES (2, 'b')",
        "INSERT INTO orders (tenant, note) VALUES (3, 'c')",
        "INSERT INTO orders (tenant, note) VALUES (4, 'd')",
        "ALTER TABLE orders ADD COLUMN price int DEFAULT 7",
    ];
    let here = "SELECT concat_ws(' ', to_regclass('public.orders'), to_regclass('orders_id_seq'), \
        (SELECT count(*) FROM pg_prepared_xacts))";
    let entries = "SELECT count(*) FROM pgshunt.tables";
    let home = connect(s.p.nodes.nodes[0].port()).await;
    s.runs(&makes).await;
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM orders").await, 4);
    assert_eq!(value::<i32>(&s.alice, "SELECT price FROM orders WHERE tenant = 3").await, 7);
    s.runs(&["ROLLBACK"]).await;
    assert_eq!(s.all_say(here).await, "0");
    assert_eq!(value::<i64>(&home, entries).await, 1);
    assert_eq!(s.fails("SELECT FROM orders").await, "42P01");

    s.runs(&makes).await;
    s.runs(&["COMMIT"]).await;
    assert_eq!(s.all_say(here).await, "orders orders_id_seq 0");
    assert_eq!(value::<i64>(&other, "SELECT count(*) FROM orders").await, 4);
    for tenant in 5..50 {
        let insert = format!("INSERT INTO orders (tenant) VALUES ({tenant})");
        other.batch_execute(&insert).await.unwrap();
    }
    // No value of the sequence twice, and no right for anybody else.
    let ids = other.query("SELECT id FROM orders", &[]).await.unwrap();
    let ids: std::collections::BTreeSet<i64> = ids.iter().map(|r| r.get(0)).collect();
    assert_eq!(ids.len(), 49);
    let owners = "SELECT string_agg(DISTINCT pg_get_userbyid(c.relowner) || c.relacl::text, '') IS NULL \
        AND bool_and(pg_get_userbyid(c.relowner) = 'alice') FROM pg_class c WHERE c.relname = 'orders'";
    let owners = format!("SELECT ({owners})::text");
    assert_eq!(s.all_say(&owners).await, "true");
    let shard = "SELECT min(shard_id) FROM pgshunt.placements JOIN pgshunt.shards USING (shard_id) \
        WHERE node_id = 1 AND group_id = (SELECT group_id FROM pgshunt.tables WHERE table_name = 'orders')";
    let shard: i32 = value(&home, shard).await;
    s.p.console().await.does(&format!("MOVE SHARD {shard} TO node2")).await;
    wait_for("the move", async || {
        let state = "SELECT string_agg(state, ' ') FROM pgshunt.moves";
        (value::<String>(&home, state).await == "soaking").then_some(())
    })
    .await;
    assert_eq!(value::<i64>(&other, "SELECT count(*) FROM orders").await, 49);

    s.runs(&["BEGIN", "DROP TABLE orders"]).await;
    assert_eq!(s.fails("SELECT FROM orders").await, "42P01");
    s.runs(&["ROLLBACK"]).await;
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM orders").await, 49);
    s.runs(&["BEGIN", "DROP TABLE t, orders", "CREATE TABLE orders (id int)"]).await;
    s.runs(&["INSERT INTO orders VALUES (1)", "COMMIT"]).await;
    assert_eq!(value::<i64>(&other, "SELECT count(*) FROM orders").await, 1);
    assert_eq!(value::<i64>(&home, entries).await, 0);
    let left = "SELECT (count(*) FILTER (WHERE relname = 't'))::text FROM pg_class";
    assert_eq!(s.all_say(left).await, "0");
}

#[tokio::test]
async fn an_error_in_the_midst_undoes_it_and_a_savepoint_brings_it_back() {
    let s = Shop::open().await;
    let before = s.shape().await;
    s.runs(&["BEGIN", "ALTER TABLE t ADD COLUMN b int", "CREATE INDEX t_b ON t (b)"]).await;
    assert_eq!(s.fails("CREATE INDEX t_b ON t (a)").await, "42P07");
    assert_eq!(s.fails("ALTER TABLE t DROP COLUMN b").await, "25P02");
    s.runs(&["COMMIT"]).await;
    assert_eq!(s.shape().await, before);

    s.runs(&["BEGIN", "SAVEPOINT a", "ALTER TABLE t ADD COLUMN b int", "SAVEPOINT b"]).await;
    // Only one node has such a row.
    s.runs(&["UPDATE t SET b = 1 WHERE k = 4"]).await;
    assert_eq!(s.fails("ALTER TABLE t ADD CONSTRAINT c CHECK (b <> 1)").await, "23514");
    s.runs(&["ROLLBACK TO b", "ALTER TABLE t ADD CONSTRAINT c CHECK (b <> 1)"]).await;
    s.runs(&["COMMIT"]).await;
    assert_eq!(
        s.shape().await,
        "k integer not null, a text, b integer; c CHECK ((b <> 1)), t_pkey PRIMARY KEY (k); t_pkey"
    );
    s.nothing_prepared().await;
}

#[tokio::test]
async fn drivers_may_prepare_what_they_send() {
    let s = Shop::open().await;
    s.runs(&["BEGIN"]).await;
    for text in [
        "ALTER TABLE t ADD COLUMN b int",
        "CREATE INDEX t_b ON t (b)",
        "ALTER TABLE t ADD CONSTRAINT c CHECK (b > 0)",
        "UPDATE t SET b = 1 WHERE k = $1",
    ] {
        let statement = s.alice.prepare(text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            if text.contains('$') { &[&3i32] } else { &[] };
        s.alice.execute(&statement, params).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
    }
    s.runs(&["COMMIT"]).await;
    assert_eq!(
        s.shape().await,
        "k integer not null, a text, b integer; c CHECK ((b > 0)), t_pkey PRIMARY KEY (k); t_b, t_pkey"
    );
}

/// What pgshunt does not carry out by itself has a transaction of its own.
#[tokio::test]
async fn one_statement_alone_is_a_transaction() {
    let s = Shop::open().await;
    s.runs(&[
        "ALTER TABLE t ALTER COLUMN a TYPE varchar(40), ADD CONSTRAINT c CHECK (k >= 0) NOT VALID",
    ])
    .await;
    let statement = s.alice.prepare("ALTER TABLE t VALIDATE CONSTRAINT c").await.unwrap();
    s.alice.execute(&statement, &[]).await.unwrap();
    assert_eq!(s.fails("ALTER TABLE t ADD CHECK (k <> 3)").await, "23514");
    assert_eq!(s.fails("ALTER TABLE t DROP CONSTRAINT d").await, "42704");
    s.runs(&[
        "ALTER TABLE t RENAME CONSTRAINT c TO d",
        "ALTER TABLE t ALTER COLUMN k SET STATISTICS 10",
    ])
    .await;
    assert_eq!(
        s.shape().await,
        "k integer not null, a character varying(40); d CHECK ((k >= 0)), t_pkey PRIMARY KEY (k); t_pkey"
    );
    // Nothing is held any more.
    s.p.console().await.does("MOVE SHARD 1 TO node2").await;
    s.runs(&["ALTER TABLE t DROP CONSTRAINT d"]).await;
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM t").await, 10);
    s.nothing_prepared().await;
}

/// What would be computed by each node for itself, and what only pgshunt can do.
#[tokio::test]
async fn what_cannot_be_the_same_on_all_nodes_is_refused() {
    let s = Shop::open().await;
    let before = s.shape().await;
    s.runs(&["CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'"]).await;
    for text in [
        "ALTER TABLE t ADD COLUMN b timestamptz DEFAULT now()",
        "ALTER TABLE t ADD COLUMN b timestamptz DEFAULT 'now'",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT 'today'::date",
        "ALTER TABLE t ALTER COLUMN a TYPE timestamptz USING current_timestamp",
        "ALTER TABLE t ADD COLUMN b serial",
        "ALTER TABLE t ADD COLUMN b int REFERENCES t",
        "ALTER TABLE t ADD COLUMN b int, ADD UNIQUE (k, b)",
        "ALTER TABLE t ADD CHECK (f(k) > 0)",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT f(1)",
        "CREATE INDEX ON t (f(k))",
        "CREATE INDEX CONCURRENTLY ON t (a)",
        "ALTER TABLE t RENAME TO u",
        "CREATE TABLE u (k int, d date DEFAULT 'today') PARTITION BY HASH (k)",
        "CREATE TABLE u (k int REFERENCES t) PARTITION BY HASH (k)",
        "CREATE TABLE u (k int DEFAULT nextval('s')) PARTITION BY HASH (k)",
        "CREATE TABLE u (k int, b int CHECK (f(b) > 0)) PARTITION BY HASH (k)",
        "CREATE TABLE u (k interval) PARTITION BY HASH (k)",
        "CREATE TABLE u (k int) PARTITION BY HASH ((k + 1))",
        "CREATE TABLE shard_1.u (k int) PARTITION BY HASH (k)",
    ] {
        s.runs(&["BEGIN"]).await;
        assert!(matches!(&*s.fails(text).await, "0A000" | "42883"), "{text}");
        assert_eq!(s.fails("SELECT 1").await, "25P02", "{text}");
        s.runs(&["ROLLBACK"]).await;
        assert_eq!(s.shape().await, before, "{text}");
    }
    s.runs(&["BEGIN", "DROP TABLE t"]).await;
    assert_eq!(s.fails("CREATE TABLE t (k int) PARTITION BY HASH (k)").await, "0A000");
    s.runs(&["ROLLBACK"]).await;
    assert_eq!(s.shape().await, before);
    // A random value is each row's own, and a constant all rows'.
    s.runs(&[
        "BEGIN",
        "ALTER TABLE t ADD COLUMN b uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE t ADD COLUMN c date DEFAULT '2020-02-01'",
        "COMMIT",
    ])
    .await;
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM t WHERE c = '2020-02-01'").await, 10);
}

#[tokio::test]
async fn another_roles_table_is_not_changed() {
    let s = Shop::open().await;
    let admin = s.p.client().await;
    admin.batch_execute("CREATE ROLE bob LOGIN PASSWORD 'secret'").await.unwrap();
    let bob = connect_as(s.p.port(), DATABASE, "bob", "secret").await.unwrap();
    let before = s.shape().await;
    for text in [
        "ALTER TABLE t ADD COLUMN b int",
        "CREATE INDEX ON t (a)",
        "ALTER TABLE t ADD UNIQUE (k, a)",
        "ALTER TABLE t ADD CHECK (k > 0)",
        "TRUNCATE t",
        "LOCK TABLE t",
        "SELECT pgshunt.settle('public.t'); CREATE TABLE shard_1.x (a int)",
        "CREATE TABLE pgshunt.x (a int)",
        "COMMENT ON TABLE t IS 'mine'",
    ] {
        bob.batch_execute("BEGIN").await.unwrap();
        let error = bob.batch_execute(text).await.expect_err(text);
        assert!(matches!(error.code().unwrap().code(), "42501" | "0A000"), "{text}: {error:?}");
        bob.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(s.shape().await, before);
}

/// Two transactions that wait for each other on different nodes: one of them is ended.
#[tokio::test]
async fn deadlocks_of_ddl_are_found() {
    let s = Shop::open().await;
    let other = connect_as(s.p.port(), DATABASE, "alice", "secret").await.unwrap();
    s.runs(&["CREATE TABLE u (k int) PARTITION BY HASH (k)"]).await;
    s.runs(&["BEGIN", "ALTER TABLE t ADD COLUMN b int"]).await;
    other.batch_execute("BEGIN").await.unwrap();
    other.batch_execute("ALTER TABLE u ADD COLUMN b int").await.unwrap();
    let (one, two) = tokio::join!(
        s.alice.batch_execute("ALTER TABLE u ADD COLUMN c int"),
        other.batch_execute("ALTER TABLE t ADD COLUMN c int")
    );
    let codes: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    assert_eq!(codes.len(), 1, "{codes:?}");
    assert_eq!(codes[0].code().unwrap().code(), "40P01");
}

#[tokio::test]
async fn a_move_and_a_transaction_with_ddl_do_not_meet() {
    let s = Shop::open().await;
    let console = s.p.console().await;
    s.runs(&["BEGIN", "ALTER TABLE t ADD COLUMN b int DEFAULT 1"]).await;
    // The shard stays where it is until the transaction has ended.
    let error = console.client.simple_query("MOVE SHARD 1 TO node2").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55006", "{error:?}");
    s.runs(&["COMMIT"]).await;
    console.does("MOVE SHARD 1 TO node2").await;
    let settled = "SELECT string_agg(state, ' ') FROM pgshunt.moves";
    let home = connect(s.p.nodes.nodes[0].port()).await;
    wait_for("the move", async || {
        (value::<String>(&home, settled).await == "soaking").then_some(())
    })
    .await;
    // What soaks makes way.
    s.runs(&["BEGIN", "ALTER TABLE t ADD COLUMN c int DEFAULT 2", "COMMIT"]).await;
    assert_eq!(value::<i64>(&s.alice, "SELECT count(*) FROM t WHERE b + c = 3").await, 10);
    assert_eq!(
        s.shape().await,
        "k integer not null, a text, b integer 1, c integer 2; t_pkey PRIMARY KEY (k); t_pkey"
    );
}

/// Other clients read and write meanwhile; whatever they are told is so.
#[tokio::test]
async fn readers_and_writers_go_on_beside_it() {
    let s = Shop::open().await;
    let other = s.p.client().await;
    let writes = tokio::spawn(async move {
        for n in 0..200 {
            let k = n % 10;
            other.batch_execute(&format!("UPDATE t SET a = 'w' WHERE k = {k}")).await.unwrap();
            let sql = format!("SELECT count(*) FROM t WHERE k = {k}");
            assert_eq!(value::<i64>(&other, &sql).await, 1);
        }
    });
    for n in 0..10 {
        let (add, drop) = (
            format!("ALTER TABLE t ADD COLUMN b{n} int"),
            format!("ALTER TABLE t DROP COLUMN b{n}"),
        );
        s.runs(&["BEGIN", &add, "CREATE INDEX i ON t (a)", "COMMIT"]).await;
        s.runs(&["BEGIN", &drop, "DROP INDEX i", "COMMIT"]).await;
    }
    writes.await.unwrap();
    assert_eq!(s.shape().await, "k integer not null, a text; t_pkey PRIMARY KEY (k); t_pkey");
}
