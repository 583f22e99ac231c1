//! The session's search_path, as the list of schemas it is.

use pg_raw_parse::raw::VariableSetKind;
use pg_raw_parse::{ConstValue, Node};

use crate::sql::tree;

/// `"$user", public`
pub const DEFAULT: [&str; 2] = ["$user", "public"];

/// The schemas that a SET's text, or the value given at startup, puts in force. `None`: not known.
pub fn schemas(text: &str) -> Option<Vec<String>> {
    let Ok(tree) = tree::parse(text) else { return listed(text) };
    let mut statements = tree.iter();
    let (Some(only), None) = (statements.next(), statements.next()) else { return listed(text) };
    let Node::VariableSetStmt(s) = only.stmt() else { return None };
    if s.name() != Some("search_path") || s.kind != VariableSetKind::VAR_SET_VALUE {
        return None;
    }
    // Each argument is one schema, a quoted list too.
    s.args()
        .iter()
        .map(|arg| match arg {
            Node::A_Const(c) => match c.val()? {
                ConstValue::String(schema) => Some(schema.to_owned()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// A list of names, in its plainest form: as `SplitIdentifierString` reads it.
fn listed(text: &str) -> Option<Vec<String>> {
    text.split(',')
        .map(|part| {
            let part = part.trim();
            if part == "\"$user\"" {
                return Some("$user".to_owned());
            }
            let name = part.strip_prefix('"').and_then(|p| p.strip_suffix('"'));
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            let name = name.unwrap_or(part);
            (!name.is_empty() && name.bytes().all(plain)).then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_or_not_known() {
        for (text, path) in [
            ("SET search_path TO public", Some(vec!["public"])),
            ("set SESSION search_path = \"$user\", \"Odd\", x", Some(vec!["$user", "Odd", "x"])),
            ("SET search_path = 'a, b'", Some(vec!["a, b"])),
            ("SET LOCAL search_path = ''", Some(vec![""])),
            ("\"$user\", public", Some(vec!["$user", "public"])),
            ("app", Some(vec!["app"])),
            ("\"a\"", Some(vec!["a"])),
            ("\"a\"\"b\"", None),
            ("App", None),
            ("", None),
            ("SET search_path TO DEFAULT", None),
            ("SET search_path FROM CURRENT", None),
            ("SELECT pg_catalog.set_config('search_path', 'x', false)", None),
            ("SET work_mem = '1MB'", None),
        ] {
            let expected = path.map(|p| p.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert_eq!(schemas(text), expected, "{text}");
        }
    }
}
