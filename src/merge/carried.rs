//! A column of gathered rows, and how its values become parameters of one node's last statement.
//!
//! A value in binary format is also an element of an array in binary format, so a column is one parameter, an
//! array, and `unnest` makes rows of it. Arrays themselves have no array type: their values, and those of types
//! that somebody has made and of which no more is known, are a parameter each, in a list of VALUES.
//!
//! The numbers of types that somebody has made differ from node to node. PostgreSQL takes no notice of those
//! that stand in binary values, and the parameters' own types it finds by what they stand beside.

use super::modifier::type_with;
use super::{Column, type_name};
use crate::wire::backend::Report;

/// The first number that the server gives to what is made in a database.
pub const FIRST_OWN: u32 = 16_384;

/// How the values come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As an array of the type with this number.
    Array(u32),
    /// As an array of a type that somebody has made.
    OwnArray,
    /// Each as a parameter, of the type with this number; 0: somebody has made it.
    Each(u32),
}

#[derive(Debug, Clone)]
pub struct Carried {
    pub oid: u32,
    way: Way,
    /// The type as a cast names it, where it has more than its number says.
    pub exact: Option<String>,
    /// Lengths and bytes of an array's elements.
    elements: Vec<u8>,
    has_null: bool,
    /// Where each value ends in `elements`; `None`: it is NULL.
    each: Vec<Option<usize>>,
}

impl Carried {
    /// Of a column with this type modifier.
    ///
    /// # Errors
    /// The type is not carried from node to node.
    pub fn new(column: Column, modifier: i32) -> Result<Self, Report> {
        let oid = column.type_oid;
        let way = match array_of(oid) {
            Some(array) => Way::Array(array),
            // What has one length is no array, and no row.
            None if oid >= FIRST_OWN && column.len > 0 => Way::OwnArray,
            None if oid >= FIRST_OWN => Way::Each(0),
            None if element_of(oid).is_some() => Way::Each(oid),
            None => {
                let what = format!("{} is not carried from several nodes to one", type_name(oid));
                return Err(Report::error("0A000", what)
                    .hint("Cast it to text, or add an equality on the distribution column."));
            }
        };
        let exact = match element_of(oid) {
            Some(element) => type_with(element, modifier).map(|ty| format!("{ty}[]")),
            None => type_with(oid, modifier),
        };
        let (elements, each) = (Vec::new(), Vec::new());
        Ok(Self { oid, way, exact, elements, has_null: false, each })
    }

    /// A value of it; gives what that takes, in bytes.
    pub fn push(&mut self, value: Option<&[u8]>) -> usize {
        /// A number and a parameter in the text, about.
        const IN_TEXT: usize = 20;
        if self.is_each() {
            self.elements.extend_from_slice(value.unwrap_or_default());
            self.each.push(value.map(|_| self.elements.len()));
            return IN_TEXT + value.map_or(0, <[u8]>::len);
        }
        let len = value.map_or(-1, |v| i32::try_from(v.len()).unwrap_or(i32::MAX));
        self.elements.extend_from_slice(&len.to_be_bytes());
        self.elements.extend_from_slice(value.unwrap_or_default());
        self.has_null |= value.is_none();
        4 + value.map_or(0, <[u8]>::len)
    }

    pub fn is_own(&self) -> bool {
        self.oid >= FIRST_OWN
    }

    /// Each value is a parameter of its own.
    pub fn is_each(&self) -> bool {
        matches!(self.way, Way::Each(_))
    }

    /// Whether each of its values is there, and not NULL.
    pub fn each(&self) -> impl Iterator<Item = bool> {
        self.each.iter().map(Option::is_some)
    }

    /// How many parameters it takes.
    pub fn parameters(&self) -> usize {
        if self.is_each() { self.each().filter(|there| *there).count() } else { 1 }
    }

    /// Its array, which is this parameter, as rows. `same`: a query of values of its type, which has none.
    pub fn unnest(&self, parameter: usize, same: &str) -> String {
        match self.way {
            Way::Array(_) | Way::Each(_) => format!("pg_catalog.unnest(${parameter})"),
            Way::OwnArray => {
                format!("pg_catalog.unnest(COALESCE(${parameter}, ARRAY({same})))")
            }
        }
    }

    /// The types of its parameters; 0: it is told by what stands beside them.
    pub fn types(&self) -> impl Iterator<Item = u32> {
        let (oid, count) = match self.way {
            Way::Array(array) => (array, 1),
            Way::OwnArray => (0, 1),
            Way::Each(oid) => (oid, self.parameters()),
        };
        std::iter::repeat_n(oid, count)
    }

    /// The values of its parameters, in binary format, if there are so many rows.
    pub fn values(&self, rows: u32) -> Vec<Vec<u8>> {
        if self.is_each() {
            let mut from = 0;
            let value = |end: &Option<usize>| {
                let end = (*end)?;
                let value = self.elements.get(from..end)?.to_vec();
                from = end;
                Some(value)
            };
            return self.each.iter().filter_map(value).collect();
        }
        let mut value = Vec::with_capacity(20 + self.elements.len());
        let dimensions = u32::from(rows > 0);
        // Which type somebody has made the node knows by its name.
        let element = if self.is_own() { 0 } else { self.oid };
        for number in [dimensions, u32::from(self.has_null), element] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        if rows > 0 {
            value.extend_from_slice(&rows.to_be_bytes());
            value.extend_from_slice(&1u32.to_be_bytes());
        }
        value.extend_from_slice(&self.elements);
        vec![value]
    }
}

/// The element type of a built-in array type.
fn element_of(oid: u32) -> Option<u32> {
    ARRAYS.iter().find(|a| a.1 == oid).map(|a| a.0)
}

/// The array type of a built-in type; `None`: values of the type are not carried.
fn array_of(oid: u32) -> Option<u32> {
    let known = ARRAYS.binary_search_by_key(&oid, |a| a.0).ok()?;
    ARRAYS.get(known).map(|a| a.1)
}

/// Types and their array types, as `pg_type.dat` numbers them.
const ARRAYS: [(u32, u32); 55] = [
    (16, 1000),
    (17, 1001),
    (18, 1002),
    (19, 1003),
    (20, 1016),
    (21, 1005),
    (23, 1007),
    (25, 1009),
    (26, 1028),
    (28, 1011),
    (114, 199),
    (142, 143),
    (600, 1017),
    (601, 1018),
    (602, 1019),
    (603, 1020),
    (604, 1027),
    (628, 629),
    (650, 651),
    (700, 1021),
    (701, 1022),
    (718, 719),
    (774, 775),
    (790, 791),
    (829, 1040),
    (869, 1041),
    (1042, 1014),
    (1043, 1015),
    (1082, 1182),
    (1083, 1183),
    (1114, 1115),
    (1184, 1185),
    (1186, 1187),
    (1266, 1270),
    (1560, 1561),
    (1562, 1563),
    (1700, 1231),
    (2950, 2951),
    (3220, 3221),
    (3614, 3643),
    (3615, 3645),
    (3802, 3807),
    (3904, 3905),
    (3906, 3907),
    (3908, 3909),
    (3910, 3911),
    (3912, 3913),
    (3926, 3927),
    (4072, 4073),
    (4451, 6150),
    (4532, 6151),
    (4533, 6152),
    (4534, 6153),
    (4535, 6155),
    (5069, 271),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(type_oid: u32, len: i16) -> Carried {
        Carried::new(Column { type_oid, binary: true, len }, -1).unwrap()
    }

    #[test]
    fn how_values_come_is_told_by_their_type() {
        assert!(ARRAYS.is_sorted());
        assert_eq!(carried(23, 4).way, Way::Array(1007));
        assert_eq!(carried(1007, -1).way, Way::Each(1007));
        assert_eq!(carried(20_000, 4).way, Way::OwnArray, "an enum");
        assert_eq!(carried(20_000, -1).way, Way::Each(0), "an array of it, or a row");
        for never in [2249, 2205, 2275] {
            let column = Column { type_oid: never, binary: true, len: -1 };
            assert!(Carried::new(column, -1).is_err(), "{never}");
        }
        let limited = Carried::new(Column { type_oid: 1015, binary: true, len: -1 }, 16).unwrap();
        assert_eq!(limited.exact.as_deref(), Some("pg_catalog.varchar(12)[]"));
    }

    #[test]
    fn values_are_parameters_of_their_own_where_there_is_no_array_of_them() {
        let mut c = carried(1007, -1);
        for value in [Some(&b"abc"[..]), None, Some(b""), Some(b"d")] {
            c.push(value);
        }
        assert_eq!(c.values(4), [b"abc".to_vec(), b"".to_vec(), b"d".to_vec()]);
        assert_eq!(c.each().collect::<Vec<_>>(), [true, false, true, true]);
        assert_eq!(c.types().collect::<Vec<_>>(), [1007; 3]);
        let mut own = carried(20_000, 4);
        own.push(Some(b"red"));
        assert_eq!(own.values(1)[0][8..12], [0; 4], "its number is not told");
        let text = own.unnest(3, "SELECT x");
        assert_eq!(text, "pg_catalog.unnest(COALESCE($3, ARRAY(SELECT x)))");
    }
}
