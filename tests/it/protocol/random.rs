//! Conversations made from a seed.
//!
//! Each has one key, so that few are refused for going to two nodes in one transaction (such a one
//! ends there); names, portals, transactions and errors are mixed at will. Two clients talk by turns
//! through a pool of two connections, which go from one to the other.
//!
//! `PGSHUNT_PROTOCOL_SEED` begins elsewhere, `PGSHUNT_PROTOCOL_TALKS` makes more of them,
//! `PGSHUNT_PROTOCOL_MOST` goes on until so many have failed. `PGSHUNT_PROTOCOL_WILD` also says what no
//! driver says: Execute of portals never bound (docs/roadmap.md has what that finds). What fails is
//! said again, shorter, until nothing can be left out.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::talk::Until;
use super::{Both, Pair};
use crate::support::PATIENCE;

const NAMES: [&str; 3] = ["-", "a", "b"];
const PORTALS: [&str; 3] = ["-", "-", "p"];

/// Rows to be fetched few at a time.
const ROWS: &str = "VALUES (1), (2), (3)";

/// What only the home node can do.
const AT_HOME: [&str; 12] = [
    "COPY copied TO STDOUT",
    "COPY copied FROM STDIN",
    "COPY copied FROM STDIN",
    "COPY nobody FROM STDIN",
    "SELECT count(*) FROM copied",
    "SELECT repeat('long', 50000)",
    "SELECT set_config('app.x', '7', true)",
    "SELECT set_config('app.x', '8', false)",
    "SHOW app.x",
    "PREPARE q AS SELECT v FROM t WHERE id = KEY",
    "EXECUTE q",
    "DEALLOCATE q",
];

/// Where one client talks alone: what concerns both nodes.
const OVER_NODES: [&str; 8] = [
    "UPDATE t SET v = 'o' WHERE id = OTHER",
    "UPDATE t SET v = 'p' WHERE id = OTHER RETURNING v",
    "SELECT v FROM t WHERE id = OTHER",
    "UPDATE t SET v = v || '+' WHERE id IN (KEY, OTHER)",
    "UPDATE t SET v = 1 / (id - KEY) WHERE id IN (KEY, OTHER)",
    "DELETE FROM t WHERE id > 1000",
    "SELECT count(*) FROM t WHERE v = 'o'",
    "UPDATE t SET v = 'q' WHERE v LIKE '%+' AND id = ANY ('{OTHER,KEY}') RETURNING 1",
];

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
    /// One that lives on the other node, for who talks alone.
    other: Option<String>,
    /// The key lives on the home node.
    home: bool,
    wild: bool,
}

impl Maker {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.random_range(0..of.len())]
    }

    fn text(&mut self) -> String {
        let one = match self.rng.random_range(0..12) {
            0 => ROWS,
            1..=3 if self.home => self.pick(&AT_HOME),
            4..=5 if self.other.is_some() => self.pick(&OVER_NODES),
            _ => self.pick(&SIMPLE),
        };
        one.replace("KEY", &self.key).replace("OTHER", self.other.as_deref().unwrap_or_default())
    }

    /// What one client says at once; it ends with Query or Sync.
    fn line(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            if self.rng.random_bool(0.45) {
                let mut text = self.text();
                while self.rng.random_bool(0.25) {
                    text = format!("{text}; {}", self.text());
                }
                let copies = text.matches("FROM STDIN").count();
                said.push(format!("Query {text}"));
                for _ in 0..copies {
                    self.copy(&mut said);
                }
                continue;
            }
            for _ in 0..self.rng.random_range(0..6) {
                self.part(&mut said);
            }
            said.push("Sync".to_owned());
        }
        said
    }

    /// The client's part of a COPY; late data is passed over where there is none.
    fn copy(&mut self, said: &mut Vec<String>) {
        for _ in 0..self.rng.random_range(0..3) {
            let data = self.pick(&["1\\n", "2\\n3\\n", "nonsense\\n"]);
            said.push(format!("CopyData {data}"));
        }
        let end = self.pick(&["CopyDone", "CopyDone", "CopyFail stop"]);
        said.push(end.to_owned());
    }

    fn part(&mut self, all: &mut Vec<String>) {
        let (name, portal) = (self.pick(&NAMES), self.pick(&PORTALS));
        // A portal with a name is on one node.
        let portal = if self.other.is_some() { "-" } else { portal };
        let most = if self.wild { 13 } else { 11 };
        match self.rng.random_range(0..most) {
            0..=4 => {
                let text = self.text();
                if name != "-" && self.rng.random_bool(0.7) {
                    all.push(format!("CloseStatement {name}"));
                }
                all.push(format!("Parse {name} {text}"));
                all.push(format!("Bind {portal} {name}"));
                if self.rng.random_bool(0.5) {
                    all.push(format!("DescribePortal {portal}"));
                }
                if text == ROWS && self.rng.random_bool(0.7) {
                    all.push(format!("Execute {portal} 2"));
                    if self.rng.random_bool(0.5) {
                        all.push(format!("Execute {portal} 2"));
                    }
                } else {
                    all.push(format!("Execute {portal}"));
                    if text.ends_with("FROM STDIN") {
                        self.copy(all);
                    }
                }
                if portal != "-" && self.rng.random_bool(0.7) {
                    all.push(format!("ClosePortal {portal}"));
                }
            }
            5 => all.extend([format!("Bind {portal} {name}"), format!("Execute {portal}")]),
            6 => all.push(format!("Parse {name} {}", self.text())),
            7 => all.push(format!("CloseStatement {name}")),
            8 => all.push(format!("ClosePortal {portal}")),
            9 => all.push("Flush".to_owned()),
            10 => all.extend([
                format!("Parse - {ROWS}"),
                format!("Bind {portal} -"),
                format!("Execute {portal} 1"),
            ]),
            11 => all.push(format!("DescribeStatement {name}")),
            _ => all.push(format!("Execute {portal}")),
        }
    }
}

/// So long an answer is waited for, where many conversations are tried and may have none.
const SHORT: Duration = Duration::from_secs(2);

/// What one client says at once, and which client it is.
type Line = (usize, Vec<String>);

/// One client talks, about rows of both nodes.
pub fn run_over_nodes(pair: &Pair) {
    converse(pair, 1, true);
}

/// `clients` talk by turns.
pub fn run(pair: &Pair, clients: usize) {
    converse(pair, clients, false);
}

fn converse(pair: &Pair, clients: usize, over_nodes: bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let first: u64 = number("PGSHUNT_PROTOCOL_SEED").unwrap_or(1);
    let talks: u64 = number("PGSHUNT_PROTOCOL_TALKS").unwrap_or(60);
    let most = number("PGSHUNT_PROTOCOL_MOST").unwrap_or(1);
    let wild = std::env::var("PGSHUNT_PROTOCOL_WILD").is_ok();
    let mut found = Vec::new();
    for seed in first..first + talks {
        let mut rng = StdRng::seed_from_u64(seed);
        let home = seed % 2 == 0;
        let turns: Vec<_> = (0..12 * clients).map(|_| rng.random_range(0..clients)).collect();
        // Each has a row of its own, on one node: none waits for another's lock.
        let mut makers: Vec<_> = (0..clients)
            .map(|n| {
                let rng = StdRng::seed_from_u64(rng.random());
                let key = pair.keys[usize::from(!home)][n].to_string();
                let other = over_nodes.then(|| pair.keys[usize::from(home)][n].to_string());
                Maker { rng, key, other, home: home && clients == 1, wild }
            })
            .collect();
        let lines: Vec<Line> = turns.into_iter().map(|who| (who, makers[who].line())).collect();
        // Some lines have fewer answers than they seem to, as a COPY passes over Sync.
        let differs = fails(pair, &lines, SHORT).is_some();
        if let Some(difference) = differs.then(|| fails(pair, &lines, PATIENCE)).flatten() {
            eprintln!("seed {seed}: {difference}");
            let (lines, difference) = shortened(pair, lines, difference);
            let said: Vec<_> =
                lines.iter().map(|(who, l)| format!("{who}: {}", l.join(" | "))).collect();
            let one = format!("seed {seed}\n{}\n{difference}\n", said.join("\n"));
            eprintln!("{one}");
            found.push(one);
            if found.len() as u64 >= most {
                break;
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// How the answers differ, if they do.
fn fails(pair: &Pair, lines: &[Line], patience: Duration) -> Option<String> {
    let mut clients: BTreeMap<usize, Both> = BTreeMap::new();
    for (who, line) in lines.iter().filter(|(_, l)| !l.is_empty()) {
        if !clients.contains_key(who) {
            match newcomer(pair, *who, patience) {
                Ok(both) => _ = clients.insert(*who, both),
                Err(difference) => return Some(difference),
            }
        }
        let Some(both) = clients.get_mut(who) else { continue };
        let ends = line.iter().filter(|m| *m == "Sync" || m.starts_with("Query")).count();
        if let Err(difference) = both.say(&line.join(" | "), Until::Ready(ends)) {
            // Refused with its reason: from here on the two are in different states.
            let refused = difference.contains("Error 0A000 ") && difference.contains("(hint: ");
            return (!refused).then_some(difference);
        }
    }
    None
}

/// A client, with everything as it was before the last talk.
fn newcomer(pair: &Pair, who: usize, patience: Duration) -> Result<Both, String> {
    let mut both = Both::open(pair, &[("application_name".into(), format!("client {who}"))]);
    both.waits(patience);
    for key in [pair.keys[0][who], pair.keys[1][who]] {
        both.say(&format!("Query UPDATE t SET v = 'v{key}' WHERE id = {key}"), Until::Ready(1))?;
    }
    both.say("Query TRUNCATE copied", Until::Ready(1))?;
    // A server process that has known it once does so for whoever comes behind.
    both.say("Query SET app.x = '0'", Until::Ready(1))?;
    Ok(both)
}

/// The first answers that differ: by them a failure is told from another.
fn parting(difference: &str) -> Option<(String, String)> {
    let (wanted, got) = difference.split_once('\n')?;
    let answers = |of: &str| -> Vec<String> {
        let (_, answers) = of.split_once(": ").unwrap_or(("", of));
        answers.split(" | ").map(str::trim).map(str::to_owned).collect()
    };
    answers(wanted).into_iter().zip(answers(got)).find(|(wanted, got)| wanted != got)
}

/// The same failure with whatever can be left out left out.
fn shortened(pair: &Pair, mut lines: Vec<Line>, mut difference: String) -> (Vec<Line>, String) {
    let mut again = true;
    while std::mem::take(&mut again) {
        for at in (0..lines.len()).rev() {
            for part in (0..lines[at].1.len()).rev() {
                let line = &lines[at].1;
                // Without its end a segment would run into the next, and a COPY would not end.
                let follows = part > 0 && line[part - 1] != "Sync";
                if line[part] == "Sync" && follows || line[part].starts_with("CopyDone") {
                    continue;
                }
                let mut fewer = lines.clone();
                fewer[at].1.remove(part);
                let shorter =
                    fails(pair, &fewer, SHORT).filter(|d| parting(d) == parting(&difference));
                if let Some(d) = shorter {
                    (lines, difference, again) = (fewer, d, true);
                }
            }
        }
        lines.retain(|(_, l)| !l.is_empty());
    }
    (lines, difference)
}
