//! The proxy's row hash against PostgreSQL's: thousands of values of every key type, as text and
//! in binary, one column and several.

use pgshunt::hash::{KeyType, KeyValue, row_hash};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::support::*;

/// The largest modulus `satisfies_hash_partition` takes: it compares 30 bits and some.
const MODULUS: u64 = i32::MAX as u64;
const VALUES: usize = 4000;

async fn node() -> (LocalNode, Client) {
    let node = LocalNode::start(NodeOptions::new("hash")).unwrap();
    let client = connect(node.port()).await;
    client
        .batch_execute(
            "CREATE TABLE k_int2 (k int2) PARTITION BY HASH (k);
             CREATE TABLE k_int4 (k int4) PARTITION BY HASH (k);
             CREATE TABLE k_int8 (k int8) PARTITION BY HASH (k);
             CREATE TABLE k_text (k text) PARTITION BY HASH (k);
             CREATE TABLE k_varchar (k varchar(200)) PARTITION BY HASH (k);
             CREATE TABLE k_uuid (k uuid) PARTITION BY HASH (k);
             CREATE TABLE k_two (a int8, b text) PARTITION BY HASH (a, b);
             CREATE TABLE k_three (a uuid, b int2, c varchar) PARTITION BY HASH (a, b, c)",
        )
        .await
        .unwrap();
    (node, client)
}

fn remainder(hash: u64) -> i32 {
    i32::try_from(hash % MODULUS).unwrap()
}

/// A fixed sequence, so that a failure can be looked at again (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of any magnitude, not only the huge ones uniform bits give.
    fn int(&mut self, bits: u32) -> i64 {
        let n = (self.next() as i64) >> (64 - bits);
        n >> (self.next() % u64::from(bits))
    }

    /// Of all lengths around the hash's block of 12 bytes, in several scripts.
    fn text(&mut self) -> String {
        const LETTERS: [char; 12] =
            ['a', 'Z', '0', ' ', '\'', '\\', '-', 'ä', 'Ω', '日', '😀', '\u{1}'];
        let len = self.next() % 41;
        (0..len).map(|_| LETTERS[self.next() as usize % LETTERS.len()]).collect()
    }
}

/// Asks the server about every (text form, remainder) at once; gives the ones it disagrees with.
async fn disagreeing(client: &Client, table: &str, keys: &[String], ours: &[i32]) -> Vec<String> {
    let cast = table.trim_start_matches("k_");
    let sql = format!(
        "SELECT t FROM unnest($1::text[], $2::int[]) AS x(t, r)
         WHERE NOT satisfies_hash_partition('{table}'::regclass, {MODULUS}, r, t::{cast})"
    );
    let rows = client.query(&sql, &[&keys, &ours]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn check(client: &Client, table: &str, column: KeyType, keys: Vec<String>) {
    assert!(keys.len() >= VALUES);
    let ours: Vec<i32> = keys
        .iter()
        .map(|text| remainder(column.from_text(text.as_bytes()).unwrap().row_hash()))
        .collect();
    assert_eq!(disagreeing(client, table, &keys, &ours).await, Vec::<String>::new(), "{table}");
    // The question itself can be answered with no.
    let wrong: Vec<i32> = ours.iter().map(|r| r ^ 1).collect();
    assert_eq!(disagreeing(client, table, &keys, &wrong).await.len(), keys.len(), "{table}");
}

#[tokio::test]
async fn values_as_text_hash_as_postgres_hashes_them() {
    let (_node, client) = node().await;
    let mut dice = Dice(1);
    for (table, column, bits, edges) in [
        ("k_int2", KeyType::Int2, 16, [i16::MIN as i64, i16::MAX as i64]),
        ("k_int4", KeyType::Int4, 32, [i32::MIN as i64, i32::MAX as i64]),
        ("k_int8", KeyType::Int8, 64, [i64::MIN, i64::MAX]),
    ] {
        let mut keys: Vec<String> = (0..VALUES).map(|_| dice.int(bits).to_string()).collect();
        keys.extend(edges.map(|n| n.to_string()));
        keys.extend(["0", "-0", "-1", "1", "  42", "\t-42\n", "0007"].map(String::from));
        check(&client, table, column, keys).await;
    }
    for (table, column) in [("k_text", KeyType::Text), ("k_varchar", KeyType::Varchar)] {
        let mut keys: Vec<String> = (0..VALUES).map(|_| dice.text()).collect();
        keys.extend(["", " ", "a ", " a"].map(String::from));
        keys.extend((0..60).map(|n| "x".repeat(n)));
        check(&client, table, column, keys).await;
    }
    let keys = (0..VALUES).map(|i| {
        let hex = format!("{:016x}{:016x}", dice.next(), dice.next());
        match i % 4 {
            0 => hex,
            1 => hex.to_uppercase(),
            2 => format!("{{{hex}}}"),
            _ => [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"),
        }
    });
    check(&client, "k_uuid", KeyType::Uuid, keys.collect()).await;
}

/// Encodes as a driver does, lets the server decode the very same bytes, and compares the hash.
async fn check_binary<T: ToSql + Sync>(
    client: &Client,
    table: &str,
    column: KeyType,
    declared: &Type,
    values: impl Iterator<Item = T>,
) {
    let sql = format!("SELECT satisfies_hash_partition('{table}'::regclass, {MODULUS}, $1, $2)");
    let column_name = table.trim_start_matches("k_");
    // The cast is what an assignment or comparison with the column would do with the parameter.
    let sql = sql.replace("$2", &format!("$2::{declared}::{column_name}"));
    let statement = client.prepare_typed(&sql, &[Type::INT4, declared.clone()]).await.unwrap();
    let mut asked = 0;
    for value in values {
        let mut bytes = bytes::BytesMut::new();
        value.to_sql(declared, &mut bytes).unwrap();
        let key = column.from_param(declared.oid(), true, &bytes).unwrap();
        let ours = remainder(key.row_hash());
        let agrees: bool = client.query_one(&statement, &[&ours, &value]).await.unwrap().get(0);
        assert!(agrees, "{table} from {declared}: {bytes:?}");
        asked += 1;
    }
    assert!(asked >= 1000);
}

#[tokio::test]
async fn values_in_binary_hash_as_postgres_hashes_them() {
    let (_node, client) = node().await;
    let mut dice = Dice(2);
    let shorts: Vec<i16> = (0..1000).map(|_| dice.int(16) as i16).collect();
    let ints: Vec<i32> = (0..1000).map(|_| dice.int(32) as i32).collect();
    let longs: Vec<i64> = (0..1000).map(|_| dice.int(64)).collect();
    for (table, column) in
        [("k_int2", KeyType::Int2), ("k_int4", KeyType::Int4), ("k_int8", KeyType::Int8)]
    {
        let shorts = shorts.iter().copied();
        check_binary(&client, table, column, &Type::INT2, shorts.clone()).await;
        check_binary(&client, table, column, &Type::INT4, shorts.clone().map(i32::from)).await;
        check_binary(&client, table, column, &Type::INT8, shorts.map(i64::from)).await;
    }
    check_binary(&client, "k_int4", KeyType::Int4, &Type::INT4, ints.iter().copied()).await;
    check_binary(&client, "k_int8", KeyType::Int8, &Type::INT4, ints.iter().copied()).await;
    check_binary(&client, "k_int8", KeyType::Int8, &Type::INT8, longs.iter().copied()).await;
    let texts: Vec<String> = (0..1000).map(|_| dice.text()).collect();
    for (table, column) in [("k_text", KeyType::Text), ("k_varchar", KeyType::Varchar)] {
        for declared in [Type::TEXT, Type::VARCHAR] {
            check_binary(&client, table, column, &declared, texts.iter()).await;
        }
    }
}

#[tokio::test]
async fn rows_with_several_key_columns_go_where_postgres_puts_them() {
    let (_node, client) = node().await;
    const LEAVES: u64 = 16;
    for table in ["k_two", "k_three"] {
        for r in 0..LEAVES {
            let leaf = format!(
                "CREATE TABLE {table}_{r} PARTITION OF {table}
                 FOR VALUES WITH (MODULUS {LEAVES}, REMAINDER {r})"
            );
            client.batch_execute(&leaf).await.unwrap();
        }
    }
    let mut dice = Dice(3);
    let mut two: Vec<(Option<i64>, Option<String>)> =
        (0..VALUES).map(|_| (Some(dice.int(64)), Some(dice.text()))).collect();
    two.extend([(None, Some("x".into())), (Some(1), None), (None, None)]);
    let ours: Vec<String> = two
        .iter()
        .map(|(a, b)| {
            let key =
                [a.map(KeyValue::Int), b.as_ref().map(|b| KeyValue::Bytes(b.as_bytes().into()))];
            format!("k_two_{}", row_hash(&key) % LEAVES)
        })
        .collect();
    let (a, b): (Vec<_>, Vec<_>) = two.into_iter().unzip();
    let rows = client
        .query(
            "INSERT INTO k_two SELECT * FROM unnest($1::int8[], $2::text[])
             RETURNING tableoid::regclass::text",
            &[&a, &b],
        )
        .await
        .unwrap();
    let theirs: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(theirs, ours);

    // Key columns of three types; uuid in binary, as its 16 bytes.
    client
        .batch_execute(
            "INSERT INTO k_three
             SELECT md5(n::text)::uuid, n, repeat('ü', n % 40) FROM generate_series(1, 4000) AS n",
        )
        .await
        .unwrap();
    let rows = client
        .query("SELECT uuid_send(a), b, c, tableoid::regclass::text FROM k_three", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 4000);
    for row in rows {
        let (uuid, b, c, leaf): (Vec<u8>, i16, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let key = [
            Some(KeyType::Uuid.from_param(Type::UUID.oid(), true, &uuid).unwrap()),
            Some(KeyValue::Int(b.into())),
            Some(KeyValue::Bytes(c.as_bytes().into())),
        ];
        assert_eq!(leaf, format!("k_three_{}", row_hash(&key) % LEAVES));
    }
}

#[tokio::test]
async fn what_we_do_not_read_postgres_refuses_or_reads_otherwise() {
    let (_node, client) = node().await;
    // What is refused here must not be plain for PostgreSQL 14 to 18 alike; what is read must be
    // read there, to the same value.
    for (column, cast, texts) in [
        (KeyType::Int4, "int4", &["1 2", "", "-", "1.0", "2147483648", "- 1", "--1", "1e3"][..]),
        (KeyType::Int2, "int2", &["32768", "-32769"][..]),
        (
            KeyType::Uuid,
            "uuid",
            &[
                "",
                " 101112131415161718191a1b1c1d1e1f",
                "10-1112131415161718191a1b1c1d1e1f",
                "101112131415161718191a1b1c1d1e1f-",
                "{101112131415161718191a1b1c1d1e1f",
            ][..],
        ),
    ] {
        for text in texts {
            assert!(column.from_text(text.as_bytes()).is_err(), "{text:?}");
            let sql = format!("SELECT ($1::text)::{cast}::text");
            assert!(client.query_one(&sql, &[text]).await.is_err(), "{text:?}");
        }
    }
    let uuids = [
        "1011-1213-1415-1617-1819-1a1b-1c1d-1e1f",
        "{101112131415-161718191A1B1C1D1E1F}",
        "10111213-1415-1617-1819-1a1b1c1d1e1f",
    ];
    for text in uuids {
        let row = client.query_one("SELECT uuid_send(($1::text)::uuid)", &[&text]).await.unwrap();
        let bytes: Vec<u8> = row.get(0);
        let bytes: [u8; 16] = bytes.try_into().unwrap();
        assert_eq!(KeyType::Uuid.from_text(text.as_bytes()), Ok(KeyValue::Uuid(bytes)));
    }
}

#[tokio::test]
async fn a_limited_varchar_stores_less_than_it_is_given() {
    let (_node, client) = node().await;
    client.batch_execute("CREATE TABLE short (k varchar(3))").await.unwrap();
    let stored: String =
        value(&client, "INSERT INTO short VALUES ('abc  ') RETURNING k || '|'").await;
    assert_eq!(stored, "abc|");
    let given = KeyType::Varchar.from_text(b"abc  ").unwrap();
    assert!(!KeyType::Varchar.stores_as_given(&given));
}
