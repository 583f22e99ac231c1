//! Conversations made from a seed.
//!
//! Each has one key, so that few are refused for going to two nodes in one transaction (such a one
//! ends there); names, portals, transactions and errors are mixed at will. `PGSHUNT_PROTOCOL_SEED` begins elsewhere,
//! `PGSHUNT_PROTOCOL_TALKS` makes more of them. `PGSHUNT_PROTOCOL_WILD` also says what no driver says:
//! Execute of portals never bound, names parsed over and over (docs/roadmap.md has what that finds). What fails is said again, shorter, until nothing can
//! be left out.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::talk::Until;
use super::{Both, Pair};

const NAMES: [&str; 3] = ["-", "a", "b"];
const PORTALS: [&str; 3] = ["-", "-", "p"];

const SIMPLE: [&str; 44] = [
    "SELECT v FROM t WHERE id = KEY",
    "SELECT v FROM t WHERE id = KEY",
    "UPDATE t SET v = 'x' WHERE id = KEY",
    "UPDATE t SET v = 'y' WHERE id = KEY RETURNING v",
    "SELECT 1/(id - KEY) FROM t WHERE id = KEY",
    "SELECT nonsense FROM t WHERE id = KEY",
    "SELECT 1",
    "SELECT 1/0",
    "SELECT nonsense",
    "SELEC",
    "",
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION READ ONLY",
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT one",
    "SAVEPOINT two",
    "ROLLBACK TO one",
    "ROLLBACK TO two",
    "RELEASE one",
    "SET work_mem = '1MB'",
    "SET work_mem = '2MB'",
    "SET LOCAL work_mem = '3MB'",
    "SET LOCAL work_mem TO DEFAULT",
    "RESET work_mem",
    "RESET ALL",
    "DISCARD ALL",
    "SET datestyle = German",
    "SHOW datestyle",
    "SHOW work_mem",
    "SHOW work_mem",
    "SHOW transaction_isolation",
    "SHOW application_name",
    "DEALLOCATE a",
    "DEALLOCATE ALL",
];

struct Maker {
    rng: StdRng,
    key: String,
    wild: bool,
}

impl Maker {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.random_range(0..of.len())]
    }

    fn text(&mut self) -> String {
        self.pick(&SIMPLE).replace("KEY", &self.key)
    }

    /// What one client says at once; it ends with Query or Sync.
    fn line(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            if self.rng.random_bool(0.45) {
                let mut text = self.text();
                if self.rng.random_bool(0.2) {
                    text = format!("{text}; {}", self.text());
                }
                said.push(format!("Query {text}"));
                continue;
            }
            for _ in 0..self.rng.random_range(0..6) {
                let part = self.part();
                said.extend(part);
            }
            said.push("Sync".to_owned());
        }
        said
    }

    fn part(&mut self) -> Vec<String> {
        let (name, portal) = (self.pick(&NAMES), self.pick(&PORTALS));
        let most = if self.wild { 10 } else { 6 };
        match self.rng.random_range(0..most) {
            0..=4 => {
                let mut all = vec![format!("Parse {name} {}", self.text())];
                if name != "-" && (!self.wild || self.rng.random_bool(0.7)) {
                    all.insert(0, format!("CloseStatement {name}"));
                }
                all.push(format!("Bind {portal} {name}"));
                if self.rng.random_bool(0.5) {
                    all.push(format!("DescribePortal {portal}"));
                }
                all.push(format!("Execute {portal}"));
                if portal != "-" {
                    all.push(format!("ClosePortal {portal}"));
                }
                all
            }
            5 => vec![format!("Bind {portal} {name}"), format!("Execute {portal}")],
            6 => vec![format!("Parse {name} {}", self.text())],
            7 => vec![format!("DescribeStatement {name}")],
            8 => vec![format!("CloseStatement {name}")],
            _ => vec![format!("Execute {portal}")],
        }
    }
}

pub fn run(pair: &Pair) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let first: u64 = number("PGSHUNT_PROTOCOL_SEED").unwrap_or(1);
    let talks: u64 = number("PGSHUNT_PROTOCOL_TALKS").unwrap_or(60);
    let most = number("PGSHUNT_PROTOCOL_MOST").unwrap_or(1) as usize;
    let wild = std::env::var("PGSHUNT_PROTOCOL_WILD").is_ok();
    let mut found = Vec::new();
    for seed in first..first + talks {
        let rng = StdRng::seed_from_u64(seed);
        let key = pair.keys[(seed % 2) as usize].to_string();
        let mut maker = Maker { rng, key, wild };
        let lines: Vec<_> = (0..12).map(|_| maker.line()).collect();
        if std::env::var("PGSHUNT_PROTOCOL_PRINT").is_ok() {
            std::fs::write(
                "/tmp/rt.last",
                lines.iter().map(|l| l.join(" | ")).collect::<Vec<_>>().join("\n"),
            )
            .unwrap();
        }
        if fails(pair, &lines).is_some() {
            let (lines, difference) = shortened(pair, lines);
            let said: Vec<_> = lines.iter().map(|l| l.join(" | ")).collect();
            found.push(format!("seed {seed}\n{}\n{difference}\n", said.join("\n")));
            if found.len() >= most {
                break;
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// How the answers differ, if they do.
fn fails(pair: &Pair, lines: &[Vec<String>]) -> Option<String> {
    let mut both = Both::open(pair, &[("application_name".to_owned(), "random".to_owned())]);
    for key in pair.keys {
        both.say(&format!("Query UPDATE t SET v = 'v{key}' WHERE id = {key}"), Until::Ready(1))
            .ok();
    }
    both.loosely = std::env::var("PGSHUNT_PROTOCOL_LOOSE").is_ok();
    for line in lines.iter().filter(|l| !l.is_empty()) {
        let ends = line.iter().filter(|m| *m == "Sync" || m.starts_with("Query")).count();
        if let Err(difference) = both.say(&line.join(" | "), Until::Ready(ends)) {
            // Refused with its reason: from here on the two are in different states.
            let refused = difference.contains("Error 0A000 ") && difference.contains("(hint: ");
            return (!refused).then_some(difference);
        }
    }
    None
}

/// The same failure with whatever can be left out left out.
fn shortened(pair: &Pair, mut lines: Vec<Vec<String>>) -> (Vec<Vec<String>>, String) {
    let mut difference = fails(pair, &lines).unwrap_or_default();
    let mut again = true;
    while std::mem::take(&mut again) {
        for at in (0..lines.len()).rev() {
            for part in (0..lines[at].len()).rev() {
                // Without its end a segment would run into the next.
                if lines[at][part] == "Sync" && part > 0 && lines[at][part - 1] != "Sync" {
                    continue;
                }
                let mut fewer = lines.clone();
                fewer[at].remove(part);
                if let Some(d) = fails(pair, &fewer) {
                    (lines, difference, again) = (fewer, d, true);
                }
            }
        }
        lines.retain(|l| !l.is_empty());
    }
    (lines, difference)
}
