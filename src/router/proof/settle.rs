//! From equalities to what is known of each table's key columns.

use std::ops::Range;

use pg_raw_parse::nodes;

use super::{Goal, Prover};
use crate::hash::KeyType;
use crate::router::plan::KeySource;
use crate::router::scope::{Column, Level};

/// An equality that holds: a key column with a constant, or with another key column.
#[derive(Debug)]
pub enum Equality {
    Is(Column, KeySource),
    Same(Column, Column),
}

/// What a key column's value is known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    Value(KeySource),
    /// This part of the key that the anchor stands for.
    Part(usize),
}

/// What is known of each table's key columns, at one level.
pub type Proven = Vec<Vec<Option<Known>>>;

/// Of a sub-select: what its `target`-th column is compared with, as the level around names it.
#[derive(Debug)]
pub struct Member {
    pub column: Column,
    pub target: usize,
}

#[derive(Debug, Default)]
pub struct Equalities {
    /// The table that stands for the key.
    pub anchor: Option<usize>,
    pub all: Vec<(Equality, Option<Range<usize>>)>,
    /// Number, place in the text and type of the parameters among them.
    pub compared: Vec<(i32, i32, KeyType)>,
    pub members: Vec<(*const nodes::SelectStmt, Member)>,
}

impl Prover<'_> {
    /// Carries the equalities to where they lead, and notes each table's key or that it has none.
    pub(super) fn settle(
        &mut self,
        level: &Level<'_>,
        equalities: Equalities,
        outer: &[Proven],
    ) -> Proven {
        let mut proven: Proven =
            level.tables.iter().map(|t| vec![None; t.table.key_columns.len()]).collect();
        if let Some(at) = equalities.anchor {
            (0..).zip(&mut proven[at]).for_each(|(n, part)| *part = Some(Known::Part(n)));
        }
        let may = |proves: &Option<Range<usize>>, at: usize| {
            proves.as_ref().is_none_or(|r| r.contains(&at))
        };
        loop {
            let mut changed = false;
            for (equality, proves) in &equalities.all {
                let known = |(up, at, key): Column| {
                    let side = if up == 0 { &proven } else { outer.get(up - 1)? };
                    side.get(at)?.get(key)?.clone()
                };
                let lessons = match equality {
                    Equality::Is(..) if self.goal == Goal::Rows => continue,
                    Equality::Is(c, source) => [Some((*c, Known::Value(source.clone()))), None],
                    // Columns of two types may be equal and hash otherwise.
                    Equality::Same(a, b) if !self.compare_alike(a.2, b.2) => continue,
                    Equality::Same(a, b) => {
                        [known(*a).map(|s| (*b, s)), known(*b).map(|s| (*a, s))]
                    }
                };
                for ((up, at, key), known) in lessons.into_iter().flatten() {
                    if up == 0 && may(proves, at) && proven[at][key].is_none() {
                        proven[at][key] = Some(known);
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        for (number, place, ty) in equalities.compared {
            self.found.compared.0.entry(number).or_default().insert(place, ty);
        }
        for (s, member) in equalities.members {
            self.members.entry(s).or_default().push(member);
        }
        for (t, keys) in level.tables.iter().zip(&proven) {
            let value = |known: &Option<Known>| match known {
                Some(Known::Value(source)) => Some(source.clone()),
                _ => None,
            };
            let of_anchor = (0..).zip(keys).all(|(n, known)| *known == Some(Known::Part(n)));
            match keys.iter().map(value).collect::<Option<Vec<_>>>() {
                Some(key) => self.found.keys.push(key.into()),
                None if of_anchor => {}
                None => {
                    self.found.unproven.get_or_insert_with(|| t.name.clone());
                }
            }
        }
        proven
    }

    /// Whether two parts of the key are of types that compare by value, and hash alike.
    fn compare_alike(&self, a: usize, b: usize) -> bool {
        let types =
            self.found.group.and_then(|g| self.names.schema.key_types(g)).unwrap_or_default();
        a == b || matches!((types.get(a), types.get(b)), (Some(a), Some(b)) if a.compares_with(*b))
    }
}
