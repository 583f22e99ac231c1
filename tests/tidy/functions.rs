//! How long a function may be.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Source, is_test_only, sources};

/// Lines of a function, from its `fn` to its closing brace. A longer one is no outline of what it does.
const LONGEST: usize = 80;

/// Functions that are longer, each by its file and name. The list only shrinks: an entry that is short
/// enough by now, or gone, fails the test.
const KNOWN: &[(&str, &str)] = &[
    ("admin/act.rs", "carry_out"),
    ("app/mod.rs", "begin"),
    ("backend/login.rs", "login"),
    ("backend/login.rs", "authenticate"),
    ("catalog/store.rs", "read"),
    ("check.rs", "of_config"),
    ("client/login.rs", "run"),
    ("config/load.rs", "check"),
    ("import/write.rs", "config"),
    ("session/apply.rs", "apply"),
    ("session/extended.rs", "bind"),
    ("session/relay.rs", "server"),
    ("session/relay.rs", "inspect"),
    ("session/relay.rs", "hears_error"),
];

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

#[derive(Default)]
struct Functions(Vec<Function>);

impl Functions {
    fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.span().start().line;
        let lines = block.span().end().line + 1 - line;
        self.0.push(Function { name: signature.ident.to_string(), line, lines });
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, f: &'a syn::ItemFn) {
        if !is_test_only(&f.attrs) {
            self.note(&f.sig, &f.block);
            visit::visit_item_fn(self, f);
        }
    }

    fn visit_impl_item_fn(&mut self, f: &'a syn::ImplItemFn) {
        self.note(&f.sig, &f.block);
        visit::visit_impl_item_fn(self, f);
    }

    fn visit_trait_item_fn(&mut self, f: &'a syn::TraitItemFn) {
        if let Some(block) = &f.default {
            self.note(&f.sig, block);
        }
        visit::visit_trait_item_fn(self, f);
    }

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !is_test_only(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }
}

fn functions(source: &Source) -> Vec<Function> {
    let mut found = Functions::default();
    found.visit_file(&source.parsed());
    found.0
}

#[test]
fn no_function_is_too_long() {
    let mut wrong = Vec::new();
    let mut long = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for f in functions(source).iter().filter(|f| f.lines > LONGEST) {
            long.push((source.path.clone(), f.name.clone()));
            if !KNOWN.contains(&(source.path.as_str(), f.name.as_str())) {
                let place = format!("src/{}:{}", source.path, f.line);
                wrong.push(format!("{place}: {} has {} lines, {LONGEST} at most", f.name, f.lines));
            }
        }
    }
    for (path, name) in KNOWN {
        if !long.iter().any(|(p, n)| p == path && n == name) {
            wrong.push(format!("src/{path}: {name} is short enough: take it off the list"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn lines_are_counted_from_the_word_fn_to_the_brace() {
    let text = "/// Doc.\n#[inline]\npub fn a(\n    x: u8,\n) {\n    let _ = \"}\";\n}\n\
                impl T {\n    fn b() {}\n}\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
    let source = Source { path: "x.rs".into(), text: text.into() };
    let found: Vec<_> = functions(&source).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 3, 5), ("b".to_owned(), 9, 1)]);
}
