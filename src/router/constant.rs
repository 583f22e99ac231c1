//! Constants that compare with a key column by its hash, and where their values will be found.

use pg_raw_parse::{ConstValue, Node, nodes};

use super::plan::KeySource;
use crate::hash::KeyType;

/// The literals of the text that the lexer found, to tie constants to them.
pub trait Literals {
    /// The literal of the constant that the parser says is at this byte.
    fn at(&self, location: usize) -> Slot;
}

/// A constant's place among the literals of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The plan is for this text alone: its constants are part of it.
    Fixed,
    /// The literal's index, and whether a minus sign stands before it.
    Literal(usize, bool),
    /// The plan is for all texts of this shape, and where they have the value is not known.
    Unknown,
}

/// A constant that compares with a key column of type `ty` by that type's hash, if it is one.
pub fn constant(
    mut value: Node<'_>,
    ty: KeyType,
    text: &[u8],
    literals: &dyn Literals,
) -> Option<KeySource> {
    // A cast to the key's own type (or one that compares with it alike) changes nothing.
    while let Node::TypeCast(t) = value {
        if !casts_alike(t.type_name()?, ty) {
            return None;
        }
        value = t.arg();
    }
    match value {
        Node::ParamRef(p) => {
            let index = usize::try_from(p.number).ok()?.checked_sub(1)?;
            Some(KeySource::Param { index, alone: true })
        }
        Node::A_Const(c) if c.isnull => Some(KeySource::Null),
        Node::A_Const(c) => {
            let integer = matches!(ty, KeyType::Int2 | KeyType::Int4 | KeyType::Int8);
            let location = usize::try_from(c.location).ok()?;
            match c.val()? {
                ConstValue::Integer(_) | ConstValue::Float(_) if integer => {
                    match literals.at(location) {
                        Slot::Literal(index, negative) => {
                            return Some(KeySource::Literal { index, negative });
                        }
                        Slot::Unknown => return None,
                        Slot::Fixed => {}
                    }
                    // Anything but plain digits is numeric and compares by numeric's rules.
                    let negative = text.get(location) == Some(&b'-');
                    let rest = text.get(location + usize::from(negative)..)?;
                    let n = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                    let more = rest
                        .get(n)
                        .is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
                    (n > 0 && !more)
                        .then(|| KeySource::Integer { negative, digits: rest[..n].to_vec() })
                }
                ConstValue::String(s) => match literals.at(location) {
                    Slot::Literal(index, negative) => Some(KeySource::Literal { index, negative }),
                    Slot::Unknown => None,
                    Slot::Fixed => Some(KeySource::Text(s.as_bytes().to_vec())),
                },
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a cast to this type leaves a value's hash what it is for a column of type `ty`.
fn casts_alike(t: &nodes::TypeName, ty: KeyType) -> bool {
    if !t.typmods().is_empty() || !t.array_bounds().is_empty() || t.setof {
        return false;
    }
    let names: Vec<&str> = t.names().iter().filter_map(|n| n.sval()).collect();
    let name = match names.as_slice() {
        [one] | ["pg_catalog", one] => *one,
        _ => return false,
    };
    match ty {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => matches!(name, "int2" | "int4" | "int8"),
        KeyType::Text | KeyType::Varchar => matches!(name, "text" | "varchar"),
        KeyType::Uuid => name == "uuid",
    }
}
