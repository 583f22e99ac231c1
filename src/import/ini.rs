//! PgBouncer's configuration file, read as PgBouncer reads it: sections, `key = value`, comments that
//! begin a line, `%include`, and the connection strings of its databases.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that include each other in a ring end here.
const DEEPEST: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum IniError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}:{line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: String },
}

/// A line that sets something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub section: String,
    pub key: String,
    pub value: String,
    /// `file:line`.
    pub place: String,
}

/// All entries, in the order PgBouncer takes them.
pub fn read(path: &Path) -> Result<Vec<Entry>, IniError> {
    let mut entries = Vec::new();
    let mut section = String::new();
    read_into(path, &mut section, &mut entries, DEEPEST)?;
    Ok(entries)
}

fn read_into(
    path: &Path,
    section: &mut String,
    entries: &mut Vec<Entry>,
    depth: usize,
) -> Result<(), IniError> {
    let text = fs::read(path).map_err(|error| IniError::Read { path: path.to_owned(), error })?;
    let text = String::from_utf8_lossy(&text);
    for (i, line) in text.lines().enumerate() {
        let wrong = |what: String| IniError::Line { path: path.to_owned(), line: i + 1, what };
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if let Some(name) = line.strip_prefix("%include") {
            // Relative to where PgBouncer runs; that is where people start it from, or its directory.
            let name = Path::new(name.trim());
            let beside = path.parent().unwrap_or(Path::new("")).join(name);
            let included = if beside.exists() { beside } else { name.to_owned() };
            if depth == 0 {
                return Err(wrong("too many files include each other".into()));
            }
            read_into(&included, section, entries, depth - 1)?;
        } else if let Some(name) = line.strip_prefix('[') {
            let name =
                name.strip_suffix(']').ok_or_else(|| wrong("a section ends with ]".into()))?;
            name.trim().clone_into(section);
        } else {
            let (key, value) = pair(line).ok_or_else(|| wrong(format!("{line:?} sets nothing")))?;
            if section.is_empty() {
                return Err(wrong(format!("{key} stands before the first section")));
            }
            let place = format!("{}:{}", path.display(), i + 1);
            entries.push(Entry { section: section.clone(), key, value, place });
        }
    }
    Ok(())
}

/// `key = value`; a key of other than ordinary letters is in double quotes.
fn pair(line: &str) -> Option<(String, String)> {
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) => {
            let (key, rest) = until_quote(quoted, '"')?;
            (key, rest.trim_start())
        }
        None => {
            let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
            let (key, rest) = line.split_at(end);
            (key.to_owned(), rest.trim_start())
        }
    };
    let value = rest.strip_prefix('=')?.trim();
    (!key.is_empty()).then(|| (key, value.to_owned()))
}

/// What stands before the quote that ends it, doubled ones made single, and what stands behind.
pub fn until_quote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, behind) = rest.split_once(quote)?;
        value.push_str(before);
        match behind.strip_prefix(quote) {
            Some(more) => {
                value.push(quote);
                rest = more;
            }
            None => return Some((value, behind)),
        }
    }
}

/// A connection string: `host=h port=1 connect_query='SELECT ''x'''`.
pub fn connection(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').ok_or_else(|| format!("no = behind {rest:?}"))?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("{key:?} is not a parameter's name"));
        }
        let behind = behind.trim_start();
        let (value, behind) = match behind.strip_prefix('\'') {
            Some(quoted) => until_quote(quoted, '\'')
                .ok_or_else(|| format!("the value of {key} does not end"))?,
            None => {
                let end = behind.find(char::is_whitespace).unwrap_or(behind.len());
                let (value, behind) = behind.split_at(end);
                (value.to_owned(), behind)
            }
        };
        pairs.push((key.to_ascii_lowercase(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_pgbouncer_reads_them() {
        let of = |line| pair(line).map(|(k, v)| format!("{k}|{v}"));
        assert_eq!(of("a = b ; c").as_deref(), Some("a|b ; c"), "a comment begins a line");
        assert_eq!(of("a=").as_deref(), Some("a|"));
        assert_eq!(of("* = host=x").as_deref(), Some("*|host=x"));
        assert_eq!(of("\"my \"\"db\" = host=x").as_deref(), Some("my \"db|host=x"));
        assert_eq!(of("nothing"), None);
        assert_eq!(of("= b"), None);
    }

    #[test]
    fn connection_strings_have_quotes() {
        let pairs =
            connection(" host = a  port=1 connect_query='SELECT ''x''' PASSWORD='' ").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [("host", "a"), ("port", "1"), ("connect_query", "SELECT 'x'"), ("password", "")]
        );
        assert_eq!(connection(""), Ok(Vec::new()));
        for wrong in ["host", "a b=c", "x='unended", "=1"] {
            assert!(connection(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = (pair(&text), connection(&text));
        }
    }
}
