//! Sessions from a seed: blocks, statements alone, texts of several, and how each is sent.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::pair::{Compare, Step};
use super::super::wire::Param;

pub struct Writer {
    rng: StdRng,
    /// Some: numbers become parameters, now and then.
    pub params: Option<Vec<Param>>,
    prepared: usize,
}

/// A statement, and whether its rows have a total order.
pub type Sql = (String, Compare);

impl Writer {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), params: None, prepared: 0 }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A whole number as it stands in a text, or a parameter in its place.
    pub fn number(&mut self, n: i64) -> String {
        if self.params.is_none() || self.chance(35) {
            return n.to_string();
        }
        let (type_oid, binary) = self.pick(&[(0, false), (0, false), (23, false), (23, true)]);
        let value = match binary {
            true => (n as i32).to_be_bytes().to_vec(),
            false => n.to_string().into_bytes(),
        };
        let params = self.params.get_or_insert_default();
        params.push(Param { type_oid, binary, value: Some(value) });
        format!("${}", params.len())
    }

    /// What one session does.
    pub fn session(&mut self, statements: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        while steps.len() < statements {
            match self.below(10) {
                0..=5 => self.block(&mut steps),
                6..=8 => {
                    let steps_before = steps.len();
                    self.say(&mut steps);
                    debug_assert!(steps.len() > steps_before);
                }
                _ => steps.push(self.text()),
            }
        }
        steps
    }

    fn block(&mut self, steps: &mut Vec<Step>) {
        const BEGINS: [&str; 8] = [
            "BEGIN",
            "BEGIN",
            "BEGIN",
            "BEGIN",
            "BEGIN",
            "START TRANSACTION",
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
        ];
        let begin = if self.chance(95) { "BEGIN" } else { self.pick(&BEGINS) };
        steps.push(self.control(begin));
        let mut savepoints = 0;
        for n in 0..2 + self.below(8) {
            match self.below(20) {
                0..=2 => {
                    steps.push(self.control(&format!("SAVEPOINT s{}", n % 3)));
                    savepoints += 1;
                }
                3..=6 if savepoints > 0 || self.chance(3) => {
                    let name =
                        if savepoints > 0 { steps.iter().rev().find_map(named) } else { None };
                    let name = name.filter(|_| self.chance(90)).unwrap_or("s1".to_owned());
                    let what = self.pick(&["ROLLBACK TO", "ROLLBACK TO", "ROLLBACK TO", "RELEASE"]);
                    steps.push(self.control(&format!("{what} {name}")));
                }
                5 if self.chance(30) => {
                    let sql = self.pick(&[
                        "SET LOCAL work_mem = '5MB'",
                        "SHOW work_mem",
                        "SET work_mem = '6MB'",
                        "SET CONSTRAINTS ALL IMMEDIATE",
                        "RESET work_mem",
                        "LOCK TABLE ord IN SHARE ROW EXCLUSIVE MODE",
                        "TRUNCATE heap",
                        "SELECT nothing FROM acc",
                        "SELEC 1",
                    ]);
                    steps.push(self.control(sql));
                }
                _ => self.say(steps),
            }
        }
        let end = self.pick(&["COMMIT", "COMMIT", "COMMIT", "END", "ROLLBACK", "ABORT"]);
        steps.push(self.control(end));
    }

    /// A statement without parameters, by either protocol.
    fn control(&mut self, sql: &str) -> Step {
        let mut step = Step::new(sql);
        step.params = self.chance(30).then(Vec::new);
        step
    }

    /// A statement, once or several times.
    fn say(&mut self, steps: &mut Vec<Step>) {
        self.params = self.chance(45).then(Vec::new);
        let (sql, compare) = self.statement();
        let (sql, params) = only_used(&sql, self.params.take());
        let mut step = Step::new(sql);
        step.compare = compare;
        step.params = params;
        step.several = compare == Compare::Rows;
        step.binary_result = step.params.is_some() && self.chance(25);
        if step.params.is_some() && self.chance(30) {
            self.prepared += 1;
            step.statement = Some((format!("p{}", self.prepared), true));
            steps.push(step.clone());
            for _ in 0..self.below(3) {
                step.statement = Some((format!("p{}", self.prepared), false));
                step.params.iter_mut().flatten().for_each(|p| self.other(p));
                steps.push(step.clone());
            }
            return;
        }
        steps.push(step);
    }

    /// The parameter with another value.
    fn other(&mut self, p: &mut Param) {
        let n = self.rng.random_range(-1..12i32);
        p.value = match p.binary {
            _ if self.chance(4) => None,
            true => Some(n.to_be_bytes().to_vec()),
            false => Some(n.to_string().into_bytes()),
        };
    }

    /// Several statements in one text.
    fn text(&mut self) -> Step {
        let mut all = Vec::new();
        let block = self.chance(40);
        if block {
            all.push("BEGIN".to_owned());
        }
        for _ in 0..2 + self.below(2) {
            all.push(self.statement().0);
        }
        if block {
            all.push(self.pick(&["COMMIT", "COMMIT", "ROLLBACK"]).to_owned());
        }
        Step { several: true, ..Step::new(all.join("; ")) }
    }

    fn statement(&mut self) -> Sql {
        let change = match self.below(12) {
            0..=3 => self.insert(),
            4..=6 => self.update(),
            7..=8 => self.delete(),
            _ => return self.read(),
        };
        (change, Compare::Rows)
    }

    /// A read of what may have been written a moment ago.
    fn read(&mut self) -> Sql {
        let (k, v) = (self.below(12) as i64, self.below(6) as i64);
        let (k, v) = (self.number(k), self.number(v));
        let other = self.below(12) as i64;
        let other = self.number(other);
        let sql = match self.below(18) {
            16 => format!("SELECT k, v FROM heap WHERE k IN ({k}, {other}, NULL) AND v >= {v}"),
            17 => format!("SELECT count(*), sum(v) FROM acc WHERE k = {k} OR {other} = acc.k"),
            0 => "SELECT count(*), sum(v), min(k), max(id) FROM acc".to_owned(),
            1 => format!("SELECT * FROM acc WHERE k = {k}"),
            2 => format!("SELECT k, v, s FROM heap WHERE v > {v}"),
            3 => {
                return (
                    format!("SELECT k, id, v FROM acc WHERE v <> {v} ORDER BY k, id"),
                    Compare::Ordered,
                );
            }
            4 => {
                format!("SELECT a.k, a.id, o.v FROM acc a JOIN ord o ON o.k = a.k WHERE o.v > {v}")
            }
            5 => "SELECT s, count(*), sum(v) FROM heap GROUP BY s".to_owned(),
            6 => format!("SELECT count(*) FROM words w JOIN ord o ON o.v = w.v WHERE o.k > {k}"),
            7 => format!("SELECT a.k, r.name FROM acc a JOIN ref r ON r.id = a.r WHERE a.v < {v}"),
            8 => "SELECT id, v, name FROM ref".to_owned(),
            9 => "SELECT * FROM near".to_owned(),
            10 => format!("SELECT k, v FROM ord WHERE k = {k} FOR UPDATE"),
            11 => format!("SELECT k FROM ord WHERE v = {v} FOR UPDATE"),
            12 => format!("SELECT 12 / (v - {v}) FROM heap"),
            13 => format!("SELECT 12 / (v - {v}), count(*) FROM heap GROUP BY 1"),
            14 => "SELECT k, u FROM late".to_owned(),
            _ => "SELECT k, v, s FROM words WHERE k IN ('w1', 'w3', 'w9')".to_owned(),
        };
        (sql, Compare::Rows)
    }
}

/// The savepoint that a step makes.
fn named(step: &Step) -> Option<String> {
    step.sql.strip_prefix("SAVEPOINT ").map(str::to_owned)
}

/// The text and its parameters without those that do not stand in it.
fn only_used(sql: &str, params: Option<Vec<Param>>) -> (String, Option<Vec<Param>>) {
    let Some(params) = params else { return (sql.to_owned(), None) };
    let (mut out, mut used, mut rest) = (String::new(), Vec::<usize>::new(), sql);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: usize = rest[..digits].parse().unwrap();
        let place = used.iter().position(|n| *n == number).unwrap_or_else(|| {
            used.push(number);
            used.len() - 1
        });
        out.push_str(&format!("${}", place + 1));
        rest = &rest[digits..];
    }
    out.push_str(rest);
    (out, Some(used.iter().map(|n| params[n - 1].clone()).collect()))
}
