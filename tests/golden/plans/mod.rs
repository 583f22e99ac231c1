//! Plans, as scripts: what the router makes of a statement's text, without any server.
//!
//! A line at the margin is input: `Q> SELECT 1` (a simple query), `P> SELECT $1` (a prepared
//! statement's text), `B> 7 'a' null` (values for the parameters of the text before), `! path SET
//! search_path = app` (see [`World::command`]), or a comment. An indented line is what the router
//! says, compared whole: the route, what the statement does to the session, and what it uses.
//! After a change that is meant, `GOLDEN=write cargo test --test golden` writes them anew.

mod cluster;
mod tell;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use pgshunt::router::place::{Given, NoValues, Values};
use pgshunt::router::plan::{KeySource, Kind, Plan};
use pgshunt::router::{Planner, Sees, Speech};
use pgshunt::topology::RoutingTable;

use cluster::{Database, functions, routes};
use tell::{placed, tell};

/// What a script's statements are planned by.
struct World {
    routes: RoutingTable,
    planner: Planner,
    path: Option<String>,
    temporary: bool,
    foreign_text: bool,
    local_code: bool,
    /// The last text, and its plan.
    last: Option<(String, Arc<Plan>)>,
}

impl World {
    fn new() -> Self {
        Self {
            routes: routes(Database::Cluster),
            planner: Planner::new(functions()),
            path: None,
            temporary: false,
            foreign_text: false,
            local_code: false,
            last: None,
        }
    }

    fn step(&mut self, line: &str) -> Vec<String> {
        if let Some(command) = line.strip_prefix("! ") {
            self.command(command);
            return Vec::new();
        }
        match line.split_once("> ") {
            Some(("Q", text)) => self.query(text),
            Some(("P", text)) => self.prepared(text),
            Some(("B", values)) => vec![self.bound(values)],
            _ => panic!("a script's line begins with Q>, P>, B> or `!`: {line}"),
        }
    }

    /// What the session's past says, and which database it is in.
    fn command(&mut self, command: &str) {
        let set = |word: &str| match word {
            "on" => true,
            "off" => false,
            other => panic!("on or off, not {other}"),
        };
        match command.split_once(' ') {
            None if command == "path" => self.path = None,
            Some(("path", text)) => self.path = Some(text.to_owned()),
            Some(("temporary", word)) => self.temporary = set(word),
            Some(("foreign_text", word)) => self.foreign_text = set(word),
            Some(("local_code", word)) => self.local_code = set(word),
            Some(("database", name)) => {
                self.routes = routes(match name {
                    "cluster" => Database::Cluster,
                    "operators" => Database::Operators,
                    "empty" => Database::Empty,
                    "lone" => Database::Lone,
                    "other" => Database::Other,
                    other => panic!("no database {other}"),
                });
                self.planner = Planner::new(functions());
            }
            _ => panic!("unknown command of a script: {command}"),
        }
    }

    fn speech(&self) -> Speech<'_> {
        Speech {
            path: self.path.as_deref(),
            temporary: self.temporary,
            foreign_text: self.foreign_text,
            local_code: self.local_code,
            sees: Sees::default(),
        }
    }

    /// What a planner that has seen nothing says; one that has planned all statements before this one,
    /// perhaps another of its shape, must say it too.
    fn query(&mut self, text: &str) -> Vec<String> {
        let mut fresh = Planner::new(functions());
        let told = |planner: &mut Planner, speech: Speech<'_>| {
            let planned = planner.plan(text.as_bytes(), &self.routes, speech);
            let mut lines = tell(&planned.plan);
            lines.extend(placed(&planned.plan, &planned.literals, &self.routes));
            let parts = planned.plan.statements.len();
            if parts > 1 {
                let part = |n| {
                    let (from, to) = planned.span(n);
                    format!("[{}]", text[from..to].trim())
                };
                lines.push((0..parts).map(part).collect::<Vec<_>>().join(" "));
            }
            lines
        };
        let mut warm = std::mem::take(&mut self.planner);
        let speech = self.speech();
        let lines = told(&mut fresh, speech);
        assert_eq!(told(&mut warm, speech), lines, "by shape, of an earlier text: {text}");
        assert_eq!(told(&mut warm, speech), lines, "from the cache: {text}");
        self.planner = warm;
        lines
    }

    fn prepared(&mut self, text: &str) -> Vec<String> {
        let mut planner = std::mem::take(&mut self.planner);
        let plan = planner.plan_text(text.as_bytes(), &self.routes, self.speech());
        self.planner = planner;
        let mut lines = tell(&plan);
        if !has_parameters(&plan) {
            lines.extend(placed(&plan, &NoValues, &self.routes));
        }
        self.last = Some((text.to_owned(), plan));
        lines
    }

    fn bound(&self, values: &str) -> String {
        let (_, plan) = self.last.as_ref().expect("P> before B>");
        let values = Bound::read(values);
        placed(plan, &values, &self.routes).unwrap_or_else(|| "no key".into())
    }
}

/// The values of parameters: `7`, `'text'` and `null`, of the type that PostgreSQL finds for them;
/// `int4:7` is of that type by the client's word.
struct Bound(Vec<BoundValue>);

struct BoundValue {
    /// The type's OID by the client's word; 0: none.
    declared: u32,
    /// `None`: NULL.
    bytes: Option<Vec<u8>>,
}

impl Bound {
    fn read(values: &str) -> Self {
        let value = |word: &str| {
            let (declared, word) = match word.split_once(':') {
                Some(("int4", word)) => (23, word),
                Some(("int8", word)) => (20, word),
                Some(("numeric", word)) => (1700, word),
                Some(("text", word)) => (25, word),
                Some(("uuid", word)) => (2950, word),
                _ => (0, word),
            };
            let text = word.trim_matches('\'').replace('_', " ");
            BoundValue { declared, bytes: (word != "null").then(|| text.into_bytes()) }
        };
        Self(values.split(' ').map(value).collect())
    }
}

impl Values for Bound {
    fn param(&self, index: usize) -> Option<Given<'_>> {
        let BoundValue { declared, bytes } = self.0.get(index)?;
        Some(match bytes {
            None => Given::Null,
            Some(bytes) => Given::Param { declared: *declared, binary: false, bytes },
        })
    }

    fn literal(&self, _: usize) -> Option<Given<'_>> {
        None
    }
}

fn has_parameters(plan: &Plan) -> bool {
    let Kind::Keys { keys, .. } = &plan.kind else { return false };
    keys.iter().flat_map(|k| k.iter()).any(|s| matches!(s, KeySource::Param { .. }))
}

/// The script with what the router says to its inputs. `---` starts a new world.
fn play(script: &str) -> String {
    let mut played = String::new();
    let mut world = World::new();
    for line in script.lines().filter(|l| !l.starts_with(' ')) {
        let _ = writeln!(played, "{line}");
        if line.starts_with("---") {
            world = World::new();
        } else if !line.is_empty() && !line.starts_with('#') {
            for said in world.step(line) {
                let _ = writeln!(played, "  {said}");
            }
        }
    }
    played
}

#[test]
fn the_router_decides_as_its_scripts_tell() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/router");
    let write = std::env::var("GOLDEN").is_ok_and(|v| v == "write");
    let mut wrong = Vec::new();
    let mut statements = 0;
    for path in crate::scripts(&dir) {
        let wanted = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        statements +=
            wanted.lines().filter(|l| l.starts_with("Q> ") || l.starts_with("P> ")).count();
        let got = play(&wanted);
        if got != wanted {
            if write {
                fs::write(&path, &got).unwrap();
            } else {
                wrong.push(format!("{name}, {}", crate::difference(&wanted, &got)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
    assert!(statements > 300, "{statements} statements only");
}
