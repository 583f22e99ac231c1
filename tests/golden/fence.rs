//! A node that says of anything that it has moved, at any point of pipelines: whatever becomes of it,
//! each Query and each Sync of the client gets its ReadyForQuery, and each message of a segment its
//! answer, up to an error.

use std::collections::{BTreeMap, VecDeque};

use crate::world::World;

/// A generator of its own, so that a seed says it all.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// PostgreSQL's side of the protocol.
#[derive(Default)]
struct Node {
    to_do: VecDeque<String>,
    statements: BTreeMap<String, String>,
    portals: BTreeMap<String, String>,
    skipping: bool,
    status: char,
}

impl Node {
    /// What it answers to the next message; `fence`: it has moved, if it can tell.
    fn answer(&mut self, fence: bool) -> Option<Vec<String>> {
        let message = self.to_do.pop_front()?;
        let words: Vec<_> = message.splitn(3, ' ').collect();
        let name = |n: usize| words.get(n).map_or(String::new(), |w| (*w).to_owned());
        let one = |text: &str| Some(vec![text.to_owned()]);
        if self.status == '\0' {
            self.status = 'I';
        }
        if self.skipping && words[0] != "Sync" {
            return one("");
        }
        match words[0] {
            "Sync" => {
                self.skipping = false;
                if self.status == 'i' {
                    self.status = 'I';
                }
                one(&format!("Ready {}", self.status))
            }
            "Flush" => one(""),
            "Query" => {
                let sql = message.split_once(' ').map_or("", |(_, sql)| sql);
                let mut said = vec![self.execute(sql, fence)];
                self.status = match self.status {
                    'i' => 'I',
                    status => status,
                };
                said.push(format!("Ready {}", self.status));
                Some(said)
            }
            "Parse" => {
                let refused = name(2).contains("refused by pgshunt");
                if refused || self.status == 'E' {
                    self.skipping = true;
                    self.status = if self.status == 'I' { 'i' } else { 'E' };
                    return one(if refused {
                        "Error 42883 refused"
                    } else {
                        "Error 25P02 aborted"
                    });
                }
                self.statements.insert(name(1), name(2));
                one("ParseComplete")
            }
            "Bind" => {
                let of = message.split(' ').nth(2).unwrap_or_default();
                let sql = self.statements.get(of).cloned().unwrap_or_default();
                self.portals.insert(name(1), sql);
                one("BindComplete")
            }
            "DescribePortal" => one("NoData"),
            "ClosePortal" | "CloseStatement" => one("CloseComplete"),
            "Execute" => {
                let sql = self.portals.get(&name(1)).cloned().unwrap_or_default();
                let said = self.execute(&sql, fence);
                self.skipping = said.starts_with("Error");
                Some(vec![said])
            }
            other => panic!("{other}: {message}"),
        }
    }

    fn execute(&mut self, sql: &str, fence: bool) -> String {
        match sql {
            "BEGIN" => self.status = 'T',
            "COMMIT" | "ROLLBACK" => self.status = 'I',
            _ if self.status == 'E' => return "Error 25P02 aborted".into(),
            sql if sql.contains("pg_current_xact_id") => {
                return "Row x | Data 77 | Complete SELECT 1".into();
            }
            sql if sql.starts_with("PREPARE TRANSACTION") => {
                self.status = 'I';
                return "Complete PREPARE TRANSACTION".into();
            }
            sql if sql.starts_with("COMMIT PREPARED") => return "Complete COMMIT PREPARED".into(),
            sql if sql.contains("refused by pgshunt") => {
                self.status = if self.status == 'T' { 'E' } else { 'i' };
                return "Error 42883 refused".into();
            }
            sql if fence && sql.contains("UPDATE t") => {
                self.status = if self.status == 'T' { 'E' } else { 'i' };
                return "Error PS001 it has moved".into();
            }
            _ => return "Complete UPDATE 1".into(),
        }
        format!("Complete {sql}")
    }
}

/// What the client says at once, with as many answers as it is owed.
fn unit(dice: &mut Dice) -> Vec<String> {
    let keys = ["1", "2", "3", "4"];
    let mut said = Vec::new();
    if dice.below(3) == 0 {
        said.push(match dice.below(5) {
            0 => "Query BEGIN".into(),
            1 => "Query COMMIT".into(),
            _ => format!("Query UPDATE t SET v = 'x' WHERE id = {}", dice.one(&keys)),
        });
        return said;
    }
    for _ in 0..=dice.below(3) {
        said.push(format!("Parse - UPDATE t SET v = 'y' WHERE id = {}", dice.one(&keys)));
        said.push("Bind - -".into());
        if dice.below(2) == 0 {
            said.push("DescribePortal -".into());
        }
        said.push("Execute -".into());
        if dice.below(4) == 0 {
            said.push("Flush".into());
        }
    }
    said.push("Sync".into());
    if dice.below(3) == 0 {
        said.push("Flush".into());
    }
    said
}

#[test]
fn whatever_has_moved_every_message_of_a_pipeline_is_answered() {
    for seed in 1..=3_000 {
        play(seed);
    }
}

fn play(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut world = World::new(false);
    let mut nodes = BTreeMap::from([("n1", Node::default()), ("n2", Node::default())]);
    let units: Vec<_> = (0..2 + dice.below(6)).map(|_| unit(&mut dice)).collect();
    let mut to_say: VecDeque<String> = units.iter().flatten().cloned().collect();
    let (mut log, mut heard) = (Vec::new(), Vec::new());
    let fences = dice.below(4);
    loop {
        let busy: Vec<_> =
            nodes.iter().filter(|(_, n)| !n.to_do.is_empty()).map(|(n, _)| *n).collect();
        let line = if !to_say.is_empty() && (busy.is_empty() || dice.below(2) == 0) {
            let n = 1 + dice.below(to_say.len() as u64) as usize;
            format!("C> {}", to_say.drain(..n).collect::<Vec<_>>().join(" | "))
        } else if let Some(name) = busy.first() {
            let fence = dice.below(4) < fences;
            let node = nodes.get_mut(name).expect("a node");
            let said = node.answer(fence).expect("it has something to do");
            if said == [""] {
                continue;
            }
            format!("{name}> {}", said.join(" | "))
        } else {
            break;
        };
        let came = world.step(&line);
        for text in &came {
            let text = text.trim_start();
            if let Some(said) = text.strip_prefix("C< ") {
                heard.extend(said.split(" | ").map(str::to_owned));
            }
            for (name, node) in &mut nodes {
                if let Some(said) = text.strip_prefix(&format!("{name}< ")) {
                    node.to_do.extend(said.split(" | ").map(str::to_owned));
                }
            }
        }
        log.push(line);
        log.extend(came);
    }
    let mut heard = VecDeque::from(heard);
    for unit in &units {
        let mut failed = false;
        for message in unit {
            let kind = message.split(' ').next().unwrap_or_default();
            let wanted = match kind {
                "Flush" => continue,
                "Parse" | "Bind" | "DescribePortal" | "Execute" if failed => continue,
                "Parse" => "ParseComplete",
                "Bind" => "BindComplete",
                "DescribePortal" => "NoData",
                "Sync" => "Ready",
                _ => "Complete",
            };
            let next = heard.front().cloned().unwrap_or_default();
            if next.starts_with("Error") && kind != "Sync" {
                failed = true;
                heard.pop_front();
            } else {
                assert!(
                    next.starts_with(wanted),
                    "seed {seed}: {message}: {next:?}\n{}",
                    log.join("\n")
                );
                heard.pop_front();
            }
            if kind == "Query" {
                let next = heard.pop_front().unwrap_or_default();
                assert!(
                    next.starts_with("Ready"),
                    "seed {seed}: {message}: {next:?}\n{}",
                    log.join("\n")
                );
            }
        }
    }
    assert!(heard.is_empty(), "seed {seed}: {heard:?}\n{}", log.join("\n"));
}
