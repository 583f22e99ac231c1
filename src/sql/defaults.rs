//! An INSERT .. VALUES that is given the values of columns which it leaves to their defaults.

use super::values::{Edit, Values};

/// What an INSERT .. VALUES leaves to defaults that tell the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    pub rows: usize,
    /// The columns that it gives, quoted; `None`: the text has their list.
    pub list: Option<String>,
    /// Columns that it does not give, quoted, and their expressions.
    pub more: Vec<(String, String)>,
    /// Where in a row DEFAULT may stand, and for which expression.
    pub words: Vec<(usize, String)>,
}

impl Defaults {
    /// The text with their expressions; `None`: their places are not found.
    pub fn put(&self, text: &[u8]) -> Option<Vec<u8>> {
        let values = Values::of(text, self.rows)?;
        let (names, expressions): (Vec<_>, Vec<_>) = self.more.iter().cloned().unzip();
        let behind = vec![expressions; self.rows];
        let mut edit = Edit { list: self.list.clone(), more: names, behind, ..Edit::default() };
        for row in 0..self.rows {
            for (column, expression) in &self.words {
                if values.item(row, *column)?.eq_ignore_ascii_case(b"default") {
                    edit.set.insert((row, *column), expression.clone());
                }
            }
        }
        // Without more columns no list is needed.
        edit.list.take_if(|_| edit.more.is_empty());
        values.put(&edit)
    }
}
