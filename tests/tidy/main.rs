//! Keeps the tree in the shape the architecture gives it: who may import whom, how long a file and a
//! function may be, no circles, nothing kept for the process where decisions are made, and nothing left
//! half done.
//!
//! A module imports only from layers below its own, or along an arrow listed in [`MODULES`]. Where a
//! rule makes a page worse, change the rule here and say why in the commit.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

mod circles;
mod functions;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A longer file does more than one thing.
const LONGEST: usize = 600;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// Bytes, values, errors: imports nothing above it, and only what an arrow allows beside it.
    Ground,
    /// The cluster as data.
    Model,
    /// Decisions without IO: no tokio, no clocks, no sockets up to here.
    Decide,
    /// What touches the world.
    Effect,
    /// What speaks to people and programs outside.
    Edge,
    /// What puts it all together.
    Root,
}

use Layer::{Decide, Edge, Effect, Ground, Model, Root};

/// Module, layer, and the modules of the same layer it may import.
const MODULES: &[(&str, Layer, &[&str])] = &[
    ("main", Root, &["cli"]),
    ("cli", Root, &["app", "demo", "check", "import"]),
    ("demo", Root, &["app", "local"]),
    ("app", Root, &[]),
    ("check", Root, &[]),
    ("import", Root, &[]),
    ("local", Root, &[]),
    ("client", Edge, &[]),
    ("admin", Edge, &[]),
    ("pool", Effect, &["backend", "net", "telemetry"]),
    ("moves", Effect, &["catalog", "backend"]),
    ("catalog", Effect, &["backend"]),
    ("backend", Effect, &["net", "telemetry"]),
    ("net", Effect, &["telemetry"]),
    ("telemetry", Effect, &[]),
    ("session", Decide, &["router", "gate", "merge", "commit", "copy", "sight"]),
    ("router", Decide, &["sql", "copy"]),
    ("sql", Decide, &[]),
    ("auth", Decide, &[]),
    ("gate", Decide, &[]),
    ("sight", Decide, &[]),
    ("merge", Decide, &["router"]),
    ("commit", Decide, &[]),
    ("copy", Decide, &[]),
    ("topology", Model, &[]),
    ("config", Ground, &[]),
    ("wire", Ground, &[]),
    ("hash", Ground, &[]),
    ("failpoint", Ground, &[]),
];

/// Machines that live in a module of a higher layer and still belong to the decisions: they know no
/// IO, and a module below their neighbours may import them.
const PURE: &[&str] = &["pool::state", "moves::machine", "moves::check", "gate::machine"];

/// The shell around a pure machine, in a module whose layer is pure.
const SHELL: &[&str] = &["gate/mod.rs", "failpoint.rs", "sql/stack.rs"];

/// What a pure module has no business with.
const IMPURE: &[&str] = &[
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix::net",
    "Instant::now",
    "SystemTime::now",
    "std::thread",
];

struct Source {
    /// Below src/, as `moves/machine.rs`.
    path: String,
    text: String,
}

impl Source {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(&self.path);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Lines of code with their numbers, without comments and without the tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let whole = self.is_test();
        self.text
            .lines()
            .enumerate()
            .take_while(move |(_, l)| !whole && l.trim() != "#[cfg(test)]")
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
            .map(|(i, l)| (i + 1, l))
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    fn parsed(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|e| panic!("src/{}: {e}", self.path))
    }

    fn is_pure(&self) -> bool {
        let path = self.path.trim_end_matches(".rs").replace('/', "::");
        PURE.contains(&path.as_str())
            || (layer(self.module()).is_some_and(|(l, _)| l <= Decide)
                && !SHELL.contains(&self.path.as_str()))
    }
}

/// Whether the attributes of an item leave it out of all but tests.
fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        syn::Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}

fn layer(module: &str) -> Option<(Layer, &'static [&'static str])> {
    MODULES.iter().find(|(name, ..)| *name == module).map(|(_, layer, arrows)| (*layer, *arrows))
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    rust_files(&root)
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(),
        })
        .filter(|s| s.path != "lib.rs")
        .collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module paths a line names by `crate::` (or by the library's name, in the binary): the
/// top-level module, and what follows it.
fn imports(line: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "pgshunt::"] {
        for (at, _) in line.match_indices(prefix) {
            let before = line.get(..at).and_then(|b| b.chars().next_back());
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = line.get(at + prefix.len()..).unwrap_or_default();
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group_heads(group)),
                None => found.push(head(rest)),
            }
        }
    }
    found
}

/// `config::Config, topology::{Node, ShardId}}` names `config` and `topology`.
fn group_heads(group: &str) -> Vec<(&str, &str)> {
    let mut found = vec![head(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => found.push(head(group.get(at + 1..).unwrap_or_default())),
            _ => {}
        }
        if depth < 0 {
            break;
        }
    }
    found.retain(|(name, _)| !name.is_empty());
    found
}

/// The first two names of a path.
fn head(text: &str) -> (&str, &str) {
    let (first, rest) = word(text);
    (first, rest.strip_prefix("::").map_or("", |r| word(r).0))
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.split_at(end)
}

fn allowed(from: &str, (to, inner): (&str, &str)) -> bool {
    let (Some((own, arrows)), Some((other, _))) = (layer(from), layer(to)) else { return false };
    let other = if PURE.contains(&format!("{to}::{inner}").as_str()) { Decide } else { other };
    from == to || arrows.contains(&to) || other < own
}

/// Each import of another top-level module in a file: its line, the module, and what follows it.
fn all_imports(source: &Source) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    // A `use crate::{` over several lines is joined to one.
    let mut pending: Option<(usize, String)> = None;
    for (number, line) in source.code() {
        let (number, line) = match pending.take() {
            Some((start, text)) => (start, text + line.trim()),
            None => (number, line.to_owned()),
        };
        let starts_use =
            line.trim_start().starts_with("use ") || line.trim_start().starts_with("pub use ");
        if starts_use && !line.contains(';') {
            pending = Some((number, line));
            continue;
        }
        for (to, inner) in imports(&line) {
            // An item of the crate's root, such as a macro, is no module.
            let is_module = layer(to).is_some() || to.starts_with(|c: char| c.is_lowercase());
            if is_module && !line.contains(&format!("{to}!")) {
                found.push((number, to.to_owned(), inner.to_owned()));
            }
        }
    }
    found
}

#[test]
fn modules_import_only_from_below_or_along_an_arrow() {
    let mut wrong = Vec::new();
    for source in sources() {
        let from = source.module();
        if layer(from).is_none() {
            wrong.push(format!("src/{}: `{from}` has no place in tests/tidy", source.path));
            continue;
        }
        for (line, to, inner) in all_imports(&source) {
            if !allowed(from, (&to, &inner)) {
                let place = format!("src/{}:{line}", source.path);
                wrong.push(format!("{place}: {from} may not import {to}::{inner}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What nobody imports is not allowed either, and a rule for a file that is gone is none.
#[test]
fn every_rule_is_needed() {
    let sources = sources();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for source in &sources {
        for (_, to, _) in all_imports(source) {
            used.insert((source.module().to_owned(), to));
        }
    }
    let mut stale = Vec::new();
    for (from, _, arrows) in MODULES {
        if !sources.iter().any(|s| s.module() == *from) {
            stale.push(format!("there is no module {from}"));
        }
        for to in arrows.iter().filter(|to| !used.contains(&(from.to_string(), to.to_string()))) {
            stale.push(format!("{from} imports nothing of {to}"));
        }
    }
    let pure = PURE.iter().map(|m| m.replace("::", "/") + ".rs");
    for path in pure.chain(SHELL.iter().map(|p| p.to_string())) {
        if !sources.iter().any(|s| s.path == path) {
            stale.push(format!("there is no src/{path}"));
        }
    }
    assert!(stale.is_empty(), "\n{}\n", stale.join("\n"));
}

#[test]
fn decisions_know_no_runtime_no_clock_and_no_socket() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.is_pure()) {
        for (number, line) in source.code() {
            for word in IMPURE.iter().filter(|w| line.contains(**w)) {
                wrong.push(format!("src/{}:{number}: {word} in a pure module", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long_and_each_says_what_it_is() {
    let mut wrong = Vec::new();
    let mut files = sources();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    files.extend(rust_files(&tests).into_iter().map(|path| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: format!("../tests/{}", path.strip_prefix(&tests).unwrap().display()),
    }));
    for source in files {
        let lines = source.text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("src/{}: {lines} lines, {LONGEST} at most", source.path));
        }
        // What tests are of is said by the module they stand beside.
        if !source.text.starts_with("//!") && !source.is_test() {
            wrong.push(format!("src/{}: does not begin with what it is (//!)", source.path));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn nothing_is_left_half_done() {
    // Put together here, so that this file does not find itself.
    let words = ["todo", "unimplemented"].map(|w| format!("{w}!("));
    let marks = ["FIX", "XX"].map(|w| format!("{w}{}", if w == "XX" { "X" } else { "ME" }));
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if words.iter().chain(&marks).any(|w| line.contains(w.as_str())) {
                wrong.push(format!("src/{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// A client's text is parsed by `sql::tree` alone, which knows how deep a tree the parser can bear, and
/// nothing but its walk goes over all of a tree: the library's own recurses. So does what writes a tree,
/// which `sql::write` asks of those alone that are not deep.
#[test]
fn client_texts_are_parsed_and_walked_in_one_place() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.path != "sql/tree.rs") {
        for (number, line) in source.code() {
            let read = ["pg_raw_parse::parse", "pg_raw_parse::walk", "walk_manual"];
            let written = ["deparse", "pg_raw_parse::transform", "pg_raw_parse::make"];
            let written = written.iter().filter(|_| source.path != "sql/write.rs");
            if read.iter().chain(written).any(|u| line.contains(u)) && !source.is_test() {
                wrong.push(format!("src/{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// docs/compatibility.md says where each claim is tested: a test's name, or a script and the words it
/// stands under there, as `file.txt: words`.
#[test]
fn every_test_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/compatibility.md")).unwrap();
    let mut code = String::new();
    for file in [rust_files(&root.join("src")), rust_files(&root.join("tests"))].concat() {
        code += &fs::read_to_string(file).unwrap();
    }
    let mut missing = Vec::new();
    let mut named = 0;
    for row in text.lines().filter(|l| l.starts_with('|')) {
        let evidence = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        for name in evidence.split('`').skip(1).step_by(2) {
            named += 1;
            let there = match name.split_once(": ") {
                Some((file, words)) => {
                    let script = fs::read_to_string(root.join("tests/golden").join(file));
                    script.is_ok_and(|s| s.contains(words))
                }
                None => code.contains(&format!("fn {name}(")),
            };
            if !there {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "there is no {missing:#?}");
    assert!(named > 50, "the table is read wrongly: {named}");
}

/// Two modules beside each other that import each other are one module in two files.
#[test]
fn arrows_go_one_way() {
    let arrows: BTreeMap<&str, &[&str]> = MODULES.iter().map(|(m, _, a)| (*m, *a)).collect();
    for (from, own, targets) in MODULES {
        for to in *targets {
            assert_eq!(layer(to).map(|l| l.0), Some(*own), "{from} -> {to} is not an arrow");
            assert!(!arrows[to].contains(from), "{from} and {to} import each other");
        }
    }
}

#[test]
fn imports_are_read_in_all_their_forms() {
    assert_eq!(imports("use crate::config::Config;"), [("config", "Config")]);
    assert_eq!(
        imports("use crate::{config::Config, topology::{Node, Shard}, wire};"),
        [("config", "Config"), ("topology", ""), ("wire", "")]
    );
    assert_eq!(imports("let x = crate::hash::seed();"), [("hash", "seed")]);
    assert_eq!(imports("use tokio_postgres::Client;"), []);
    assert_eq!(imports("pub(crate) use mycrate::a;"), []);
    assert!(allowed("session", ("topology", "")) && allowed("pool", ("backend", "")));
    assert!(!allowed("topology", ("session", "")) && !allowed("backend", ("pool", "Pool")));
    assert!(allowed("backend", ("pool", "state")), "the pure machine is below its shell");
    assert!(!allowed("client", ("admin", "")));
}

/// A name within a dollar quote could end it. What is built for a server is made of statements, with
/// names quoted each for itself or given as parameters.
#[test]
fn no_statement_is_built_within_a_dollar_quote() {
    for source in sources() {
        for (line, text) in source.code() {
            let built = ["DO $", "EXECUTE format("].iter().any(|s| text.contains(s));
            assert!(!built, "src/{}:{line}: {text}", source.path);
        }
    }
}
