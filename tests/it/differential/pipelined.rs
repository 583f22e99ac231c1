//! Several texts in one write: each means what it means behind those before it.

use super::pair::Pair;
use super::wire::Reply;

const TEXTS: &[&[&str]] = &[
    &["SELECT * FROM i4 WHERE k = 5", "SELECT * FROM i4 WHERE k = 6", "SELECT count(*) FROM i4"],
    &["BEGIN", "SELECT * FROM i4 WHERE k = 5", "COMMIT", "SELECT * FROM i4 WHERE k = 6"],
    &["CREATE TEMP TABLE i4 (k int)", "SELECT count(*) FROM i4", "SELECT * FROM i4 WHERE k = 5"],
    &[
        "SET search_path = app",
        "SELECT count(*) FROM items",
        "RESET search_path",
        "SELECT count(*) FROM i4",
    ],
    &["SET search_path = app", "SELECT count(*) FROM i4", "SELECT 1"],
    &["BEGIN", "SET search_path = app", "ROLLBACK", "SELECT count(*) FROM i4"],
    &[
        "BEGIN",
        "SET search_path = app",
        "COMMIT",
        "SELECT count(*) FROM i4",
        "SELECT count(*) FROM items",
    ],
    &[
        "BEGIN",
        "SELECT * FROM i4 WHERE k = 5",
        "SELECT 1/0",
        "SELECT * FROM i4 WHERE k = 5",
        "ROLLBACK",
        "SELECT 2",
    ],
    &["DISCARD ALL", "SELECT * FROM i4 WHERE k = 5"],
    // What comes behind a read over nodes that fails is there before the nodes know of it.
    &[
        "BEGIN",
        "SELECT 12 / (k - k) FROM i4",
        "INSERT INTO i4 (k) VALUES (abs(5))",
        "INSERT INTO i4 (k) SELECT v FROM i4",
        "SELECT sum(12 / (v - v)) OVER () FROM i4",
        "UPDATE i4 SET v = 1 FROM loc",
        "ROLLBACK",
        "SELECT 2",
    ],
];

pub fn run(pair: &mut Pair) {
    in_portions(pair);
    for texts in TEXTS {
        for extended in [false, true] {
            pair.reconnect();
            pair.shunt.write_all(texts, extended);
            let ours: Vec<Reply> = texts.iter().map(|_| pair.shunt.reply(None)).collect();
            pair.plain.write_all(texts, extended);
            let theirs: Vec<Reply> = texts.iter().map(|_| pair.plain.reply(None)).collect();
            for (at, text) in texts.iter().enumerate() {
                let refused = |f: &super::wire::Failure| f.sqlstate == "0A000" && f.hint.is_some();
                let aborted = at > 0 && theirs[at - 1].status == b'E';
                if ours[at].failure.as_ref().is_some_and(refused) && !aborted {
                    // From here on the two sides may stand in different transactions.
                    break;
                }
                let differs =
                    super::pair::difference(&ours[at], &theirs[at], super::pair::Compare::Rows);
                assert_eq!(differs, None, "{text} in {texts:?}, extended: {extended}");
            }
        }
    }
}

/// Execute with a limit, and again: the portal goes on where it stopped.
fn in_portions(pair: &mut Pair) {
    for sql in [
        "SELECT v FROM i4 WHERE k = 5 ORDER BY v",
        "SELECT 1 FROM i4",
        "SELECT count(*) FROM i4",
        "SELECT id FROM loc ORDER BY id",
        "INSERT INTO i4 (k, v) VALUES (900, 1), (900, 2) RETURNING k",
        "SELECT 1 FROM i4 WHERE false",
    ] {
        for portions in [&[1][..], &[1, 1], &[1, 0], &[0, 0], &[100], &[100, 1], &[2, 2, 2]] {
            pair.reconnect();
            let ours = pair.shunt.portions(sql, portions);
            if ours.failure.as_ref().is_some_and(|f| f.sqlstate == "0A000" && f.hint.is_some()) {
                continue;
            }
            let theirs = pair.plain.portions(sql, portions);
            let differs = super::pair::difference(&ours, &theirs, super::pair::Compare::Rows);
            assert_eq!(differs, None, "{sql} in portions of {portions:?}");
        }
    }
}
