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
    /// Likewise of a number that is no integer.
    Number(usize, bool),
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
            let location = usize::try_from(c.location).ok()?;
            match c.val()? {
                // An integer for an oid is the oid of that number.
                ConstValue::Integer(_) | ConstValue::Float(_)
                    if ty.is_integer() || matches!(ty, KeyType::Oid | KeyType::Numeric) =>
                {
                    number(location, ty, text, literals)
                }
                ConstValue::String(s) => match literals.at(location) {
                    Slot::Literal(index, negative) => Some(KeySource::Literal { index, negative }),
                    Slot::Number(..) | Slot::Unknown => None,
                    Slot::Fixed => Some(KeySource::Text(s.as_bytes().to_vec())),
                },
                // A word, and so a part of the text's shape.
                ConstValue::Boolean(b) if ty == KeyType::Bool => {
                    Some(KeySource::Text(b.to_string().into_bytes()))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// An unquoted number.
fn number(location: usize, ty: KeyType, text: &[u8], literals: &dyn Literals) -> Option<KeySource> {
    match literals.at(location) {
        Slot::Literal(index, negative) => return Some(KeySource::Literal { index, negative }),
        Slot::Number(index, negative) if ty == KeyType::Numeric => {
            return Some(KeySource::Literal { index, negative });
        }
        Slot::Number(..) | Slot::Unknown => return None,
        Slot::Fixed => {}
    }
    let negative = text.get(location) == Some(&b'-');
    let rest = text.get(location + usize::from(negative)..)?;
    let digits = |from: &[u8]| from.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut n = digits(rest);
    if let (KeyType::Numeric, Some(b'.')) = (ty, rest.get(n)) {
        n += 1 + digits(rest.get(n + 1..)?);
    }
    // Anything but plain digits is numeric, and compares with other types by numeric's rules; an exponent is
    // not read.
    let more = rest.get(n).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
    (n > 0 && !more).then(|| KeySource::Integer { negative, digits: rest[..n].to_vec() })
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
        KeyType::Bpchar => name == "bpchar",
        KeyType::Name => name == "name",
        // Without quotes it is character(1).
        KeyType::Char => name == "char",
        KeyType::Bytea => name == "bytea",
        KeyType::Bool => name == "bool",
        KeyType::Oid => name == "oid",
        KeyType::Numeric => name == "numeric",
        KeyType::Date => name == "date",
        KeyType::Timestamp => name == "timestamp",
        KeyType::Timestamptz => name == "timestamptz",
    }
}
