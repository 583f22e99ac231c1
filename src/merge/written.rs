//! Rows as the data of COPY TO STDOUT, byte for byte as PostgreSQL writes it (`CopyAttributeOutText`,
//! `CopyAttributeOutCSV`). The values' texts are a node's, and so is the line of names.

use crate::router::plan::Look;

/// Signature, flags and an empty extension.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// How a row is written whose columns have these names.
#[derive(Debug)]
pub struct Written {
    look: Look,
    /// Which columns are quoted, whatever is in them.
    quoted: Vec<bool>,
}

impl Written {
    pub fn new(look: Look, names: &[String]) -> Self {
        let quoted = match &look {
            Look::Csv { quoted: Some(quoted), .. } => {
                names.iter().map(|name| quoted.is_empty() || quoted.contains(name)).collect()
            }
            Look::Csv { quoted: None, .. } | Look::Text { .. } | Look::Binary => {
                vec![false; names.len()]
            }
        };
        Self { look, quoted }
    }

    pub fn is_binary(&self) -> bool {
        self.look == Look::Binary
    }

    /// What stands in front of the first row.
    pub fn head(&self, first: bool) -> &'static [u8] {
        if first && self.is_binary() { SIGNATURE } else { &[] }
    }

    /// A row as a message of COPY data has it. In binary format it is what a DataRow has.
    pub fn row(&self, row: &[Option<&[u8]>], out: &mut Vec<u8>) {
        match &self.look {
            Look::Binary => {
                out.extend_from_slice(&(row.len() as u16).to_be_bytes());
                for value in row {
                    let len = value.map_or(-1, |v| i32::try_from(v.len()).unwrap_or(i32::MAX));
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(value.unwrap_or_default());
                }
            }
            Look::Text { delimiter, null } => {
                for (n, value) in row.iter().enumerate() {
                    if n > 0 {
                        out.push(*delimiter);
                    }
                    match value {
                        Some(value) => text(value, *delimiter, out),
                        None => out.extend_from_slice(null),
                    }
                }
                out.push(b'\n');
            }
            Look::Csv { delimiter, null, quote, escape, .. } => {
                let alone = row.len() == 1;
                for (n, value) in row.iter().enumerate() {
                    if n > 0 {
                        out.push(*delimiter);
                    }
                    let Some(value) = value else {
                        out.extend_from_slice(null);
                        continue;
                    };
                    let special =
                        |b: &u8| *b == *delimiter || *b == *quote || matches!(*b, b'\n' | b'\r');
                    let forced = self.quoted.get(n).copied().unwrap_or_default();
                    // What would be read as the end of the data, or as NULL.
                    let odd = alone && *value == b"\\." || *value == null.as_slice();
                    if !forced && !odd && !value.iter().any(special) {
                        out.extend_from_slice(value);
                        continue;
                    }
                    out.push(*quote);
                    for b in *value {
                        if b == quote || b == escape {
                            out.push(*escape);
                        }
                        out.push(*b);
                    }
                    out.push(*quote);
                }
                out.push(b'\n');
            }
        }
    }
}

fn text(value: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    for b in value {
        let named = match *b {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            b if b == b'\\' || b == delimiter => b,
            b => {
                out.push(b);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', named]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(look: Look, row: &[Option<&str>]) -> String {
        let names: Vec<String> = (0..row.len()).map(|n| format!("c{n}")).collect();
        let row: Vec<_> = row.iter().map(|v| v.map(str::as_bytes)).collect();
        let mut out = Vec::new();
        Written::new(look, &names).row(&row, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped() {
        let look = Look::Text { delimiter: b'\t', null: b"\\N".to_vec() };
        let row = [Some("a\tb\\c\nd"), None, Some(""), Some("\u{8}\u{b}\u{1}é")];
        assert_eq!(line(look, &row), "a\\tb\\\\c\\nd\t\\N\t\t\\b\\v\u{1}é\n");
        let look = Look::Text { delimiter: b'|', null: b"nil".to_vec() };
        assert_eq!(line(look, &[Some("a|b\tc"), None]), "a\\|b\\tc|nil\n");
    }

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let csv = |quoted: Option<Vec<String>>| Look::Csv {
            delimiter: b',',
            null: Vec::new(),
            quote: b'"',
            escape: b'"',
            quoted,
        };
        let row = [Some("a"), Some("b,c"), Some("say \"x\""), None, Some(""), Some("d\ne")];
        let wanted = "a,\"b,c\",\"say \"\"x\"\"\",,\"\",\"d\ne\"\n";
        assert_eq!(line(csv(None), &row), wanted);
        assert_eq!(line(csv(None), &[Some("\\.")]), "\"\\.\"\n");
        assert_eq!(line(csv(None), &[Some("\\."), Some("x")]), "\\.,x\n");
        assert_eq!(line(csv(Some(vec![])), &[Some("a"), None]), "\"a\",\n");
        assert_eq!(line(csv(Some(vec!["c1".into()])), &[Some("a"), Some("b")]), "a,\"b\"\n");
    }

    #[test]
    fn binary_rows_are_those_of_data_rows() {
        let written = Written::new(Look::Binary, &[]);
        assert_eq!((written.head(true).len(), written.head(false).len()), (19, 0));
        let mut out = Vec::new();
        written.row(&[Some(b"ab"), None], &mut out);
        assert_eq!(out, [0, 2, 0, 0, 0, 2, b'a', b'b', 255, 255, 255, 255]);
    }
}
