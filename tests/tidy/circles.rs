//! No circles inside a module: files that use each other are one file in several.
//!
//! A file uses another when it names something of it, by a path or through what a `mod.rs` above it
//! imports from there. What a file takes from the `mod.rs` above itself is left out: that is its place.
//! Calls of methods are not seen, nor what stands inside a macro's parentheses.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::{Source, is_test_only, sources};

/// The module of each circle, and the circle's files below it. The list only shrinks: a circle that has
/// lost a file, or is gone, fails the test as one that has grown does.
const KNOWN: &[(&str, &str)] = &[
    ("admin", "act halt show show::databases"),
    ("catalog", "addresses moves repair store"),
    ("catalog", "ddl::access_change ddl::acting ddl::role_change ddl::statement ddl::trust"),
    (
        "client",
        "analysis aside authenticate ending handover handover::console \
         handover::replication handover::session idling login relay replication shared \
         worker",
    ),
    ("import", "auth plan"),
    ("local", "cluster node template"),
    ("moves", "cleanup leaves replica_role"),
    ("moves", "mover task"),
    (
        "session",
        "behind columns copying link order portals relay residue retry sequences statement",
    ),
];

/// A file's module path, as `["catalog", "ddl", "create"]`.
type Module = Vec<String>;

/// Paths that a `use` names, with what each is called here.
fn used(tree: &syn::UseTree) -> Vec<(Vec<String>, syn::Ident)> {
    let mut found = Vec::new();
    note_used(tree, &mut Vec::new(), &mut found);
    found
}

fn note_used(
    tree: &syn::UseTree,
    path: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, syn::Ident)>,
) {
    match tree {
        syn::UseTree::Path(p) => {
            path.push(p.ident.to_string());
            note_used(&p.tree, path, found);
            path.pop();
        }
        syn::UseTree::Name(n) if n.ident == "self" => {
            if let Some(last) = path.last() {
                found.push((path.clone(), syn::Ident::new(last, n.ident.span())));
            }
        }
        syn::UseTree::Name(n) => {
            found.push(([&path[..], &[n.ident.to_string()]].concat(), n.ident.clone()));
        }
        syn::UseTree::Rename(r) => {
            found.push(([&path[..], &[r.ident.to_string()]].concat(), r.rename.clone()));
        }
        syn::UseTree::Glob(g) => {
            let star = syn::Ident::new("_all", syn::spanned::Spanned::span(g));
            found.push((path.clone(), star));
        }
        syn::UseTree::Group(g) => g.items.iter().for_each(|t| note_used(t, path, found)),
    }
}

/// What a file names, as paths of the whole crate.
struct Names<'a> {
    module: &'a Module,
    /// Modules that the file declares inside itself and the walk is in.
    inside: usize,
    paths: Vec<Vec<String>>,
    /// What each name that a `use` brings stands for.
    brought: BTreeMap<String, Vec<String>>,
}

impl Names<'_> {
    /// The path from the crate's root; `None` for other crates' and for what is defined here.
    fn whole(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = self.module.clone();
        let mut rest = rest;
        match first.as_str() {
            "crate" | "pgshunt" => base.clear(),
            "self" => {}
            "super" => {
                // One `super` leads out of a module inside the file, not out of the file.
                let mut ups = 1;
                while let Some((next, tail)) = rest.split_first()
                    && next == "super"
                {
                    (ups, rest) = (ups + 1, tail);
                }
                base.truncate(base.len().saturating_sub(ups - ups.min(self.inside)));
            }
            name => return self.brought.get(name).map(|to| [&to[..], rest].concat()),
        }
        Some([&base[..], rest].concat())
    }
}

impl<'a> Visit<'a> for Names<'_> {
    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        for (path, name) in used(&item.tree) {
            // `use child::Name` of a module's own child begins with neither `self` nor `crate`.
            let whole = self.whole(&path).unwrap_or_else(|| [&self.module[..], &path].concat());
            self.paths.push(whole.clone());
            self.brought.insert(name.to_string(), whole);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let whole = self.whole(&names);
        self.paths.push(whole.unwrap_or_else(|| [&self.module[..], &names].concat()));
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !is_test_only(&module.attrs) && module.content.is_some() {
            self.inside += 1;
            visit::visit_item_mod(self, module);
            self.inside -= 1;
        }
    }
}

fn module(source: &Source) -> Module {
    let path = source.path.trim_end_matches(".rs");
    path.trim_end_matches("/mod").split('/').map(str::to_owned).collect()
}

/// For each file those that it uses, its own ancestors left out.
fn arrows(files: &[Source]) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut named = BTreeMap::new();
    for source in files {
        let module = module(source);
        let mut names =
            Names { module: &module, inside: 0, paths: Vec::new(), brought: BTreeMap::new() };
        names.visit_file(&source.parsed());
        let (paths, brought) = (names.paths, names.brought);
        named.insert(module, (paths, brought));
    }
    // The file that a path leads to, through what files on the way have brought from elsewhere.
    let file = |path: &Vec<String>| -> Option<Module> {
        let mut path = path.clone();
        for _ in 0..8 {
            let known = (1..=path.len()).rev().find(|n| named.contains_key(&path[..*n]))?;
            let (at, rest) = path.split_at(known);
            let through = rest.first().and_then(|name| named[at].1.get(name));
            match through {
                Some(to) if named.contains_key(&to[..1]) || named.keys().any(|m| m[0] == to[0]) => {
                    path = [&to[..], &rest[1..]].concat();
                }
                _ => return Some(at.to_vec()),
            }
        }
        None
    };
    named
        .iter()
        .map(|(from, (paths, _))| {
            let to = paths.iter().filter_map(file);
            // Within the module, and not what the file stands in.
            let to = to.filter(|to| to[0] == from[0] && !from.starts_with(to));
            (from.clone(), to.collect())
        })
        .collect()
}

/// Sets of files each of which leads to all others of its set.
fn circles(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Vec<Module>> {
    let reached = |from: &Module| {
        let mut all = BTreeSet::new();
        let mut next: Vec<&Module> = arrows[from].iter().collect();
        while let Some(module) = next.pop() {
            if all.insert(module.clone()) {
                next.extend(&arrows[module]);
            }
        }
        all
    };
    let reach: BTreeMap<&Module, BTreeSet<Module>> =
        arrows.keys().map(|m| (m, reached(m))).collect();
    let mut found = BTreeSet::new();
    for (from, all) in reach.iter().filter(|(from, all)| all.contains(**from)) {
        found.insert(all.iter().filter(|to| reach[to].contains(*from)).cloned().collect());
    }
    found
}

#[test]
fn files_of_a_module_do_not_use_each_other_in_circles() {
    let files: Vec<Source> = sources().into_iter().filter(|s| !s.is_test()).collect();
    let arrows = arrows(&files);
    let below = |m: &Module| m[1..].join("::");
    let found: Vec<(String, String)> = circles(&arrows)
        .into_iter()
        .map(|c| (c[0][0].clone(), c.iter().map(below).collect::<Vec<_>>().join(" ")))
        .collect();
    let mut wrong = Vec::new();
    for (module, circle) in &found {
        if KNOWN.iter().any(|(m, c)| m == module && c == circle) {
            continue;
        }
        wrong.push(format!("    ({module:?}, {circle:?}), // is a circle, by"));
        for (from, to) in arrows.iter().filter(|(f, _)| f[0] == *module) {
            let on_it = |m: &Module| circle.split(' ').any(|file| file == below(m));
            for to in to.iter().filter(|to| on_it(from) && on_it(to)) {
                wrong.push(format!("    // {} -> {}", below(from), below(to)));
            }
        }
    }
    for (module, circle) in KNOWN {
        if !found.iter().any(|(m, c)| m == module && c == circle) {
            wrong.push(format!(
                "    ({module:?}, {circle:?}), // is none any more: shorten the list"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn circles_are_found_through_all_forms_of_naming() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let files = [
        file("m/mod.rs", "mod a; mod b; mod c; mod d; pub use c::C; pub struct Own;"),
        file("m/a.rs", "use super::b::{self, B}; use super::Own;"),
        file(
            "m/b.rs",
            "fn f() { crate::m::a::g(); }\n#[cfg(test)] mod tests { use super::super::d::D; }",
        ),
        file("m/c.rs", "use super::d; struct C; fn f() { d::g() }"),
        file("m/d.rs", "mod inner { use super::super::C; }"),
        file("n.rs", "use crate::m::a;"),
    ];
    let name = |m: &str| vec!["m".to_owned(), m.to_owned()];
    let found = circles(&arrows(&files));
    assert_eq!(found, BTreeSet::from([vec![name("a"), name("b")], vec![name("c"), name("d")]]));
}
