//! Shards of every key type move, and their leaves are attached without a scan: what a cutover holds
//! does not grow with the rows.

use pgshunt::moves::State;

use super::scene::{assert_tidy, last_move, serves, until_state};
use crate::support::{Console, DATABASE, Proxy, value};

/// Attaches a leaf that is not attached and rolls back; says what PostgreSQL thought about a scan.
async fn attached(node: &mut Console, leaf: &str) -> Vec<String> {
    node.told();
    node.does(&format!(
        "BEGIN; SET LOCAL client_min_messages = debug1; \
         ALTER TABLE public.t ATTACH PARTITION {leaf} FOR VALUES WITH (MODULUS 2, REMAINDER 0)"
    ))
    .await;
    node.does("ROLLBACK").await;
    node.told().into_iter().filter(|n| n.contains("verifying") || n.contains("implied")).collect()
}

#[tokio::test]
async fn leaves_are_attached_without_a_scan_whatever_the_key() {
    for (columns, key, row) in [
        ("k int", "k", "g"),
        ("k uuid", "k", "md5(g::text)::uuid"),
        ("k text", "k", "g::text"),
        ("k text COLLATE \"C\"", "k", "g::text"),
        ("k varchar(40)", "k", "g::varchar"),
        ("n int, k text", "n, k", "g, g::text"),
        ("k char(9)", "k", "g::text::char(9)"),
        ("k name, d date", "k, d", "g::text::name, date '2024-01-01' + g"),
        (
            "b bytea, n numeric, t timestamptz, o oid",
            "b, n, t, o",
            "g::text::bytea, g / 4.0, timestamptz '2024-01-01 00:00+00' + g * interval '1 h', g::oid",
        ),
        (
            "a varchar(9) COLLATE \"POSIX\", n uuid, k text",
            "a, n, k",
            "'x'::varchar, md5('')::uuid, g::text",
        ),
    ] {
        let p = Proxy::start(2, 2).await;
        let console = p.console().await;
        console.does("SET shard_count = 2").await;
        let c = p.client().await;
        c.batch_execute(&format!(
            "CREATE TABLE t ({columns}, v int, PRIMARY KEY ({key})) PARTITION BY HASH ({key})"
        ))
        .await
        .unwrap_or_else(|e| panic!("{columns}: {e:?}"));
        let parent = Console::open(p.nodes.nodes[0].port(), DATABASE).await;
        let given = key.split(", ").map(|k| format!("x.{k}")).collect::<Vec<_>>().join(", ");
        parent
            .does(&format!(
                "INSERT INTO public.t SELECT x.*, 1 FROM (SELECT {row} FROM generate_series(1, 400) g) AS x({key}) \
                 WHERE satisfies_hash_partition('public.t'::regclass, 2, 0, {given})"
            ))
            .await;
        let rows: i64 = value(&c, "SELECT count(*) FROM t").await;
        assert!(rows > 100, "{columns}: {rows}");
        console.does("MOVE SHARD 1 TO node2").await;
        until_state(&console, State::Soaking).await;
        let mut source = Console::open(p.nodes.nodes[0].port(), DATABASE).await;
        let said = attached(&mut source, "shard_1.t").await;
        assert!(
            matches!(said.as_slice(), [one] if one.contains("implied by existing constraints")),
            "{columns}: {said:?}"
        );
        console.does("ROLLBACK MOVE").await;
        until_state(&console, State::Done).await;
        assert_eq!(serves(&console, 1).await, "node1", "{}", last_move(&console, "error").await);
        assert_eq!(value::<i64>(&c, "SELECT count(*) FROM t").await, rows, "{columns}");
        assert_tidy(&p.nodes, columns).await;
    }
}
