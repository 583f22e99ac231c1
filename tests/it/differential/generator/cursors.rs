//! Cursors over whatever query: declared, moved about in, and closed, amid writes and savepoints.

use super::Generator;
use crate::differential::pair::{Compare, Step};

/// A cursor that is declared.
struct Cursor {
    name: &'static str,
    /// What order its rows have.
    compare: Compare,
    scrolls: bool,
    fetched: bool,
}

impl Generator {
    /// A transaction with cursors, and what comes behind it.
    pub fn cursors(&mut self) -> Vec<Step> {
        let mut steps = vec![Step::new("BEGIN")];
        let mut open = Vec::new();
        let may_write = self.chance(50);
        let held = !may_write && self.chance(50);
        if may_write {
            steps.push(self.cursor_write());
        }
        for name in ["c0", "\"C 1\"", "c2"].into_iter().take(1 + self.below(3)) {
            steps.push(self.cursor_declare(name, held, &mut open));
        }
        for n in 0..2 + self.below(7) {
            match self.below(12) {
                0 if may_write => steps.push(self.cursor_write()),
                1 => steps.push(Step::new(format!("SAVEPOINT s{n}"))),
                2 => {
                    // What is declared behind it is gone with it, and what is closed stays so.
                    steps.push(Step::new("SAVEPOINT t"));
                    steps.push(self.cursor_declare("gone", held, &mut Vec::new()));
                    let at = self.below(open.len());
                    if open.len() > 1 && self.chance(50) {
                        steps.push(Step::new(format!("CLOSE {}", open[at].name)));
                    }
                    steps.push(Step::new("ROLLBACK TO t"));
                    steps.push(Step::new("SAVEPOINT t"));
                    let name = if self.chance(50) { "gone" } else { open[at].name };
                    steps.push(Step::new(format!("MOVE 0 FROM {name}")));
                    steps.push(Step::new("ROLLBACK TO t"));
                }
                3 => {
                    let at = self.below(open.len());
                    steps.push(Step::new(format!("CLOSE {}", open[at].name)));
                    let name = open.remove(at).name;
                    steps.push(self.cursor_declare(name, held, &mut open));
                }
                _ => {
                    let at = self.below(open.len());
                    steps.push(self.cursor_fetch(&mut open[at]));
                }
            }
        }
        steps.push(Step::new(if self.chance(70) { "COMMIT" } else { "ROLLBACK" }));
        let at = self.below(open.len());
        let cursor = &mut open[at];
        if held {
            steps.push(self.cursor_fetch(cursor));
            steps.push(self.cursor_fetch(cursor));
        }
        for cursor in open {
            steps.push(Step::new(format!("CLOSE {}", cursor.name)));
        }
        steps
    }

    fn cursor_write(&mut self) -> Step {
        let (key, value) = (self.below(12), self.below(5));
        Step::new(match self.below(3) {
            0 => format!("UPDATE i4 SET v = {value} WHERE k = {key}"),
            1 => format!("DELETE FROM i8 WHERE k = {key}"),
            _ => format!("INSERT INTO i4 (k, v, s) VALUES ({key}, {value}, 's{value}')"),
        })
    }

    fn cursor_declare(&mut self, name: &'static str, held: bool, open: &mut Vec<Cursor>) -> Step {
        let mut step = match self.below(5) {
            0 | 1 => self.read(),
            2 => {
                let key = self.below(12);
                let mut step = Step::new(format!("SELECT * FROM i4 WHERE k = {key}"));
                step.compare = Compare::Rows;
                step
            }
            _ => self.across(),
        };
        let (how, scrolls) = self.pick(&[
            ("", false),
            ("SCROLL ", true),
            ("SCROLL ", true),
            ("NO SCROLL ", false),
            ("INSENSITIVE SCROLL ", true),
            ("BINARY ", false),
        ]);
        let hold = if held { "WITH HOLD " } else { self.pick(&["", "", "WITHOUT HOLD "]) };
        open.push(Cursor { name, compare: step.compare, scrolls, fetched: false });
        step.sql = format!("DECLARE {name} {how}CURSOR {hold}FOR {}", step.sql);
        step.compare = Compare::Rows;
        step
    }

    fn cursor_fetch(&mut self, cursor: &mut Cursor) -> Step {
        let n = self.below(5);
        let forward = ["NEXT", "FORWARD 2", "3", "ALL", "FORWARD ALL", "RELATIVE 1"];
        let anywhere = ["PRIOR", "FIRST", "LAST", "BACKWARD 2", "BACKWARD ALL", "RELATIVE -1", "0"];
        let way = match self.below(10) {
            // Of rows in no order all are compared, and then their number.
            _ if !cursor.fetched && cursor.compare == Compare::Rows => "ALL".to_owned(),
            0..=4 if cursor.scrolls => self.pick(&anywhere).to_owned(),
            5 if cursor.scrolls => format!("ABSOLUTE {n}"),
            6 if cursor.scrolls => format!("ABSOLUTE -{n}"),
            _ => self.pick(&forward).to_owned(),
        };
        let moves = cursor.fetched && self.chance(30);
        let verb = if moves { "MOVE" } else { "FETCH" };
        let mut step = Step::new(format!("{verb} {way} FROM {}", cursor.name));
        step.compare = match cursor.compare {
            Compare::Rows if !cursor.fetched => Compare::Rows,
            Compare::Rows | Compare::Shape => Compare::Shape,
            Compare::Ordered => Compare::Ordered,
        };
        cursor.fetched |= !moves;
        if self.chance(30) {
            step.params = Some(Vec::new());
            step.binary_result = self.chance(50);
        }
        step
    }
}
