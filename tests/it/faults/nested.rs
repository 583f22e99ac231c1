//! Statements that are deep or wide by each rule of PostgreSQL's grammar that can be used again on what
//! it has made. The process lives, and the answer is PostgreSQL's own, or 54001.

use std::time::{Duration, Instant};

use super::binary::Binary;
use super::wire::*;
use crate::support::*;

/// A rule: what stands in front, what is repeated before the innermost part, that part, what is
/// repeated behind it, and the end.
struct Rule(&'static str, &'static str, &'static str, &'static str, &'static str);

impl Rule {
    fn text(&self, times: usize) -> String {
        let Rule(head, open, core, close, tail) = self;
        [*head, &open.repeat(times), core, &close.repeat(times), tail].concat()
    }
}

const RULES: &[Rule] = &[
    Rule("SELECT ", "", "1", "+1", ""),
    Rule("SELECT ", "1-", "1", "", ""),
    Rule("SELECT ", "", "'a'", "||'b'", ""),
    Rule("SELECT ", "", "1", "::int", ""),
    Rule("SELECT ", "", "1", "^1", ""),
    Rule("SELECT ", "- ", "x FROM l AS l (x)", "", ""),
    Rule("SELECT ", "+", "x FROM l AS l (x)", "", ""),
    Rule("SELECT ", "@ ", "1", "", ""),
    Rule("SELECT ", "NOT ", "true", "", ""),
    Rule("SELECT ", "", "true", " AND true", ""),
    Rule("SELECT ", "", "true", " OR a = 1", " FROM l"),
    Rule("SELECT ", "", "true", " AND (true OR false)", ""),
    Rule("SELECT ", "(true OR (false AND ", "true", "))", ""),
    Rule("SELECT ", "", "true", " IS NOT NULL", ""),
    Rule("SELECT ", "", "true", " IS TRUE", ""),
    Rule("SELECT ", "", "true", " = true", ""),
    Rule("SELECT ", "", "'a'", " COLLATE \"C\"", ""),
    Rule("SELECT ", "", "now()", " AT TIME ZONE 'UTC'", ""),
    Rule("SELECT ", "", "a", "[1]", " FROM l"),
    Rule("SELECT ", "(", "a", ").a", " FROM l"),
    Rule("SELECT ", "", "a", ".a", " FROM l"),
    Rule("SELECT ", "(", "1", ")", ""),
    Rule("SELECT ", "(SELECT ", "1", ")", ""),
    Rule("", "SELECT * FROM (", "SELECT 1", ") s", ""),
    Rule("SELECT ", "CASE WHEN true THEN ", "1", " END", ""),
    Rule("SELECT CASE", "", "", " WHEN a = 1 THEN 2", " END FROM l"),
    Rule("SELECT ", "ARRAY[", "1", "]", ""),
    Rule("SELECT ARRAY", "[", "1", "]", ""),
    Rule("SELECT ", "abs(", "1", ")", ""),
    Rule("SELECT ", "ROW(", "1", ", 2)", " IS NULL"),
    Rule("SELECT ", "COALESCE(NULL, ", "1", ")", ""),
    Rule("SELECT ", "EXISTS (SELECT ", "1", ")", ""),
    Rule("SELECT ", "1 IN (", "1", ")", ""),
    Rule("SELECT ", "1 = ANY (ARRAY[", "1", "]) OR true", ""),
    Rule("SELECT ", "true BETWEEN false AND ", "true", "", ""),
    Rule("SELECT 1", "", "", " UNION ALL SELECT 1", ""),
    Rule("SELECT 1, 2", "", "", " UNION SELECT 1, 2", ""),
    Rule("SELECT 1", "", "", " EXCEPT SELECT 1", ""),
    Rule("SELECT 1", "", "", " INTERSECT SELECT 1", ""),
    Rule("", "(", "SELECT 1", " UNION SELECT 1)", ""),
    Rule("SELECT 1 FROM l", "", "", " CROSS JOIN l", ""),
    Rule("SELECT 1 FROM l", "", "", " NATURAL JOIN l", ""),
    Rule("SELECT 1 FROM l", "", "", " LEFT JOIN l ON true", ""),
    Rule("SELECT 1 FROM ", "(", "l", " CROSS JOIN l)", ""),
    Rule("SELECT 1 FROM l", "", "", ", l", ""),
    Rule("", "WITH w AS (", "SELECT 1", ") SELECT 1", ""),
    Rule("WITH w0 AS (SELECT 1)", "", "", ", w AS (SELECT 1)", " SELECT 1"),
    Rule("SELECT 1", "", "", ", 1", ""),
    Rule("SELECT 1 WHERE 1 IN (1", "", "", ", 1", ")"),
    Rule("SELECT", "", "", " /*", ""),
    Rule("SELECT 1", "", "", "; SELECT 1", ""),
    Rule("INSERT INTO l VALUES (0)", "", "", ", (0)", ""),
    Rule("INSERT INTO l SELECT 1", "", "", " + 1", ""),
    Rule("UPDATE l SET a = 1", "", "", " + 1", ""),
    Rule("DELETE FROM l WHERE a = 1", "", "", " + 1", ""),
    Rule("INSERT INTO d VALUES (1, 1", "", "", " + 1", ")"),
    Rule("SELECT * FROM d WHERE t = 1", "", "", "::bigint", ""),
    Rule("SELECT * FROM d WHERE t = 1", "", "", " AND id = 1", ""),
    Rule("SELECT * FROM d WHERE t = 1 AND id = 1", "", "", " + 1", ""),
    Rule("SELECT 1 FROM d WHERE t = 1", "", "", " UNION ALL SELECT 1 FROM d WHERE t = 1", ""),
    Rule("(SELECT 1 ORDER BY 1", "", "", "+1", ") ORDER BY 1"),
    Rule("EXPLAIN SELECT 1", "", "", "+1", ""),
    Rule("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "", "", "+1", ""),
    Rule("PREPARE p AS SELECT 1", "", "", "+1", ""),
    Rule("EXECUTE p (1", "", "", "+1", ")"),
    Rule("CALL f(1", "", "", "+1", ")"),
    Rule("COPY (SELECT 1", "", "", "+1", ") TO STDOUT"),
    Rule("CREATE TABLE x AS SELECT 1", "", "", "+1", ""),
    Rule("CREATE TABLE x (a int DEFAULT 1", "", "", "+1", ")"),
    Rule("CREATE TABLE x (t int, a int CHECK (1", "", "", "+1", " > 0)) PARTITION BY HASH (t)"),
    Rule("ALTER TABLE d ADD COLUMN x int DEFAULT 1", "", "", "+1", ""),
    Rule("CREATE INDEX ON d ((1", "", "", "+1", "))"),
    Rule("CREATE POLICY p ON d USING (1", "", "", "+1", " > 0)"),
    Rule("CREATE VIEW x AS SELECT 1", "", "", "+1", ""),
    Rule("CREATE RULE x AS ON INSERT TO l DO ALSO SELECT 1", "", "", "+1", ""),
    Rule("CREATE FUNCTION x() RETURNS TABLE (a int(1", "", "", "+1", ")) LANGUAGE sql AS ''"),
    Rule("CREATE FUNCTION x() RETURNS int RETURN 1", "", "", "+1", ""),
    Rule("CREATE FUNCTION x() RETURNS int BEGIN ATOMIC SELECT 1", "", "", "+1", "; END"),
    Rule("DO $$ BEGIN PERFORM 1", "", "", "+1", "; END $$"),
    Rule("SET search_path = a", "", "", ", a", ""),
    Rule("DROP TABLE IF EXISTS x", "", "", ", x", ""),
    Rule("TRUNCATE l", "", "", ", l", ""),
    Rule("GRANT SELECT ON l TO public", "", "", ", public", ""),
];

/// Parse, Describe, Bind, Execute and Sync of one text.
fn extended(sql: &str) -> Vec<u8> {
    [
        message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat()),
        message(b'B', &[0; 8]),
        message(b'E', &[0; 5]),
        message(b'S', b""),
    ]
    .concat()
}

/// The code of the error among the tags, if there is one.
fn error(tags: &str) -> &str {
    tags.split_once('E').map_or("", |(_, behind)| &behind[..5])
}

#[tokio::test]
async fn no_statement_is_too_deep_or_too_wide_to_be_answered() {
    let b = Binary::start(2, "");
    let mut wire = Wire::login(b.port).await;
    assert_eq!(wire.ask("CREATE TABLE d (t bigint, id int) PARTITION BY HASH (t)").await, "CZ");
    assert_eq!(wire.ask("CREATE TABLE l (a int)").await, "CZ");
    for rule in RULES {
        // Both are 54001 or a result here and there, by how much stack each kind takes.
        for times in [300, 45_000] {
            let text = rule.text(times);
            let shown = format!("{} .. {} {times} times", rule.0, rule.3);
            let mut codes = Vec::new();
            for request in [query(&text), extended(&text)] {
                // Each leaves what it likes, and the server need not be able to go on.
                let mut wire = Wire::login(b.port).await;
                wire.send(&query("BEGIN")).await;
                wire.ready().await;
                wire.send(&request).await;
                let tags = wire.ready().await;
                assert!(tags.ends_with('Z'), "{shown}: {tags}");
                codes.push(error(&tags).to_owned());
            }
            let ours = |code: &String| ["", "54001", "0A000", "25001"].contains(&code.as_str());
            if !ours(&codes[0]) {
                // Another error is the server's.
                let direct = connect(b.nodes.nodes[0].port()).await;
                let told = direct.batch_execute(&format!("BEGIN; {text}")).await.expect_err(&shown);
                assert_eq!(codes[0], told.code().expect(&shown).code(), "{shown}");
            }
            // Several statements in one Parse are a syntax error.
            let alike = codes[1] == codes[0] || rule.3.starts_with(';') && codes[1] == "42601";
            assert!(alike || ours(&codes[1]), "{shown}: {codes:?}");
        }
    }
    assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
}

/// The longest that one of `clients` waited for an answer while `busy` was under way.
async fn longest_wait(
    clients: &mut [Wire],
    busy: impl Future<Output = String>,
) -> (Duration, String) {
    let mut longest = Duration::ZERO;
    let mut busy = std::pin::pin!(busy);
    loop {
        for wire in &mut *clients {
            let asked = Instant::now();
            assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
            longest = longest.max(asked.elapsed());
        }
        let done = tokio::time::timeout(Duration::from_millis(20), &mut busy).await;
        if let Ok(tags) = done {
            return (longest, tags);
        }
    }
}

#[tokio::test]
async fn a_large_statement_keeps_nobody_else_waiting_and_memory_is_bounded() {
    const ROOM: u64 = 300;
    let b = Binary::start(2, "[limits]\nanalysis_memory = \"150MB\"\n");
    let mut wire = Wire::login(b.port).await;
    assert_eq!(wire.ask("CREATE TABLE d (t bigint, id int) PARTITION BY HASH (t)").await, "CZ");
    // Enough that each worker has some.
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(Wire::login(b.port).await);
    }
    let before = b.memory();
    let large = format!("SELECT 1{}", ", 1".repeat(500_000));
    for request in [query(&large), extended(&large)] {
        let begun = Instant::now();
        let busy = async {
            wire.send(&request).await;
            wire.ready().await
        };
        let (longest, tags) = longest_wait(&mut others, busy).await;
        assert_eq!(tags, "E54011Z", "PostgreSQL's own answer");
        assert!(longest < begun.elapsed() / 2, "{longest:?} of {:?}", begun.elapsed());
    }
    // Several at a time wait for one another.
    let mut crowd = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::login(b.port).await;
        wire.send(&query(&large)).await;
        crowd.push(wire);
    }
    for wire in &mut crowd {
        let mut tags = String::new();
        while !tags.ends_with('Z') {
            tags = tokio::time::timeout(PATIENCE, wire.ready()).await.expect("an answer");
        }
        assert_eq!(tags, "E54011Z");
    }
    let after = b.memory();
    assert!(after < before + ROOM, "{before} MB, then {after} MB");
    // What would need more than all may have is not read.
    let larger = format!("SELECT 1 FROM d WHERE t IN (1{})", ", 1".repeat(1_000_000));
    assert_eq!(wire.ask(&larger).await, "E54000Z");
    let deeper = format!("SELECT 1{} FROM d", "+1".repeat(4_000_000));
    assert_eq!(wire.ask(&deeper).await, "E54000Z");
    // But a string is one word, however long.
    let long = format!("SELECT length('{}') FROM d WHERE t = 1", "+1 ".repeat(5_000_000));
    assert_eq!(wire.ask(&long).await, "TCZ");
}
