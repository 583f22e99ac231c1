//! Where decisions are made nothing is kept for the process and nothing is left to chance: what a module
//! knows stands in its values, so that two proxies can live side by side in one test, and a conversation
//! that is played again goes the same way again.

use syn::visit::{self, Visit};

use super::{Source, is_test_only, sources};

/// What there is of it, by file and name. The list only shrinks: an entry that is gone fails the test.
const KNOWN: &[(&str, &str)] = &[
    ("router/functions.rs", "CHANGES"),
    ("router/functions.rs", "TABLE_CHANGES"),
    ("session/behind.rs", "QUESTION"),
    ("session/luggage.rs", "KNOWN"),
    ("session/luggage.rs", "leak"),
    ("session/reported.rs", "SEED"),
    ("session/sequences.rs", "MARKS"),
];

/// A nonce must not be foreseen, and is no decision.
const LEFT_TO_CHANCE: &str = "auth";

/// Names that stand for the process or for chance: a seed that is another in each process, memory that
/// is never given back, what each thread has of its own. The seed of a map's own hasher is not meant
/// (foldhash's): that no map is iterated over is seen by clippy's `iter_over_hash_type`.
const NAMES: &[&str] = &["RandomState", "DefaultHasher", "leak", "thread_local"];

#[derive(Default)]
struct Kept(Vec<(String, usize)>);

impl Kept {
    fn note(&mut self, name: &syn::Ident) {
        self.0.push((name.to_string(), name.span().start().line));
    }
}

impl<'a> Visit<'a> for Kept {
    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        // It is named once, whatever it is made of.
        self.note(&item.ident);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let last = path.segments.last().map(|s| &s.ident);
        let is_random = names.first().is_some_and(|n| n == "rand");
        let is_named = names.last().is_some_and(|n| NAMES.contains(&n.as_str()));
        let is_foldhash = names.first().is_some_and(|n| n == "foldhash");
        if let Some(last) = last
            && (is_random || is_named)
            && !is_foldhash
        {
            self.note(last);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        if NAMES.contains(&call.method.to_string().as_str()) {
            self.note(&call.method);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !is_test_only(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }
}

fn kept(source: &Source) -> Vec<(String, usize)> {
    let mut found = Kept::default();
    found.visit_file(&source.parsed());
    found.0
}

#[test]
fn pure_modules_keep_nothing_for_the_process() {
    let mut wrong = Vec::new();
    let mut there = Vec::new();
    for source in
        sources().iter().filter(|s| s.is_pure() && !s.is_test() && s.module() != LEFT_TO_CHANCE)
    {
        for (name, line) in kept(source) {
            if !KNOWN.contains(&(source.path.as_str(), name.as_str())) {
                wrong.push(format!("src/{}:{line}: {name} is the process's", source.path));
            }
            there.push((source.path.clone(), name));
        }
    }
    for (path, name) in KNOWN {
        if !there.iter().any(|(p, n)| p == path && n == name) {
            wrong.push(format!("src/{path}: {name} is gone: take it off the list"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn what_is_the_processs_is_seen_in_all_its_forms() {
    let text = "static A: AtomicU64 = AtomicU64::new(0);\n\
                fn f(text: &'static str) { static B: u8 = 1; Box::leak(x); y.leak(); rand::random() }\n\
                thread_local! { static C: u8 = 1; }\n\
                type S = std::hash::RandomState;\ntype F = foldhash::fast::RandomState;\n\
                #[cfg(test)]\nmod tests { static D: u8 = 1; }\n";
    let source = Source { path: "x.rs".into(), text: text.into() };
    let names: Vec<_> = kept(&source).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["A", "B", "leak", "leak", "random", "thread_local", "RandomState"]);
}
