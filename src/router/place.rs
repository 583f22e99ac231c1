//! From a plan and the values at hand to a place: the nodes and shards a statement touches.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::plan::{Key, KeySource, Kind, Merge, Parts, SeveralRows};
use crate::hash::{KeyError, KeyType, KeyValue, row_hash};
use crate::topology::{Group, GroupId, NodeId, RoutingTable, Shard, Touch};
use crate::wire::backend::Report;
use crate::wire::frontend::Bind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One node, and the shards touched there (none: local tables).
    Node { node: NodeId, touches: Vec<Touch> },
    /// Whichever node the session is linked to.
    Any,
    /// All shards.
    Every { group: GroupId, nodes: Vec<NodeId>, merge: Merge },
}

/// A value as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given<'a> {
    Null,
    /// A quoted literal's contents.
    Text(Cow<'a, [u8]>),
    /// An unquoted integer's digits.
    Digits(&'a [u8]),
    /// A parameter with the type the client declared (0: none).
    Param {
        declared: u32,
        binary: bool,
        bytes: &'a [u8],
    },
}

impl Given<'_> {
    /// The value as an integer, whatever integer type it was sent as.
    pub fn integer(&self) -> Option<i64> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.trim().parse().ok();
        match self {
            Self::Null => None,
            Self::Text(bytes) => text(bytes),
            Self::Digits(bytes) | Self::Param { binary: false, bytes, .. } => text(bytes),
            Self::Param { declared: 0 | 20 | 21 | 23, bytes, .. } => match **bytes {
                [a, b] => Some(i16::from_be_bytes([a, b]).into()),
                [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
                [a, b, c, d, e, f, g, h] => Some(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
                _ => None,
            },
            Self::Param { .. } => None,
        }
    }
}

/// Where a statement's values are looked up.
pub trait Values {
    fn param(&self, index: usize) -> Option<Given<'_>>;
    fn literal(&self, index: usize) -> Option<Given<'_>>;
}

/// No values: a plan without keys.
pub struct NoValues;

impl Values for NoValues {
    fn param(&self, _: usize) -> Option<Given<'_>> {
        None
    }
    fn literal(&self, _: usize) -> Option<Given<'_>> {
        None
    }
}

/// The parameters of a Bind and the types its Parse declared.
pub struct BindValues<'a> {
    pub bind: &'a Bind<'a>,
    /// Big-endian u32s.
    pub oids: &'a [u8],
}

impl Values for BindValues<'_> {
    fn param(&self, index: usize) -> Option<Given<'_>> {
        let p = self.bind.param(index)?;
        let oid = self.oids.get(index * 4..index * 4 + 4);
        let declared = oid.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        Some(match p.value {
            None => Given::Null,
            Some(bytes) => Given::Param { declared, binary: p.binary, bytes },
        })
    }
    fn literal(&self, _: usize) -> Option<Given<'_>> {
        None
    }
}

/// Finds the place of a statement.
///
/// # Errors
/// The statement is refused: its kind says so, its keys live on several nodes, or a key's value
/// cannot be read the way PostgreSQL would.
pub fn place(kind: &Kind, values: &dyn Values, routes: &RoutingTable) -> Result<Place, Report> {
    match kind {
        Kind::Keys { group, keys } => {
            let group = routes.group(*group).ok_or_else(gone)?;
            by_keys(group, keys, values, routes)
        }
        Kind::Leaf(shard) => {
            let shard = routes.shard(*shard).ok_or_else(gone)?;
            Ok(Place::Node { node: shard.node, touches: vec![touch(shard)] })
        }
        Kind::Every { group, merge } => {
            let mut nodes = routes.nodes_of(*group);
            if !merge.others().is_empty() {
                nodes.extend(merge.others().iter().flat_map(|g| routes.nodes_of(*g)));
                nodes.sort_unstable();
                nodes.dedup();
            }
            if kind.names_local() {
                // What is the home node's alone is there, and the last step with it.
                let home = routes.home().id;
                nodes.retain(|n| *n != home);
                nodes.insert(0, home);
            }
            Ok(Place::Every { group: *group, nodes, merge: merge.clone() })
        }
        Kind::Home | Kind::Ddl(_) => {
            Ok(Place::Node { node: routes.home().id, touches: Vec::new() })
        }
        Kind::Any | Kind::Apart => Ok(Place::Any),
        Kind::Refused(report) => Err((**report).clone()),
    }
}

fn touch(shard: &Shard) -> Touch {
    Touch::Shard { group: shard.group, shard: shard.id, node: shard.node }
}

/// The plan is older than the routing table; the client asks again and it is planned anew.
fn gone() -> Report {
    Report::error("40001", "the table has just been changed").hint("Try again.")
}

fn by_keys(
    group: &Group,
    keys: &[Key],
    values: &dyn Values,
    routes: &RoutingTable,
) -> Result<Place, Report> {
    let mut touches: Vec<Touch> = Vec::with_capacity(1);
    let mut node = None;
    for key in keys {
        let Some(shard) = shard_of(group, key, values)? else { continue };
        if *node.get_or_insert(shard.node) != shard.node {
            return Err(several_nodes(routes, node, shard.node));
        }
        let t = touch(shard);
        if !touches.contains(&t) {
            touches.push(t);
        }
    }
    if let (None, false) = (node, keys.is_empty()) {
        // It finds nothing, or fails, on whichever node.
        let any = &group.shards[0];
        return Ok(Place::Node { node: any.node, touches: vec![touch(any)] });
    }
    let node = node.ok_or_else(gone)?;
    Ok(Place::Node { node, touches })
}

/// Finds the nodes of an INSERT's rows, each of which has its own.
///
/// # Errors
/// The nodes would not agree on what it computes, or a key's value cannot be read.
pub fn by_row(
    kind: &Kind,
    rows: &SeveralRows,
    values: &dyn Values,
    routes: &RoutingTable,
) -> Result<Place, Report> {
    let Kind::Keys { group, keys } = kind else { return Err(gone()) };
    let group = routes.group(*group).ok_or_else(gone)?;
    if let Some(what) = &rows.unsteady {
        let no = format!("INSERT of rows on several nodes with {what} is not supported");
        return Err(Report::error("0A000", no).hint(
            "Compute its value first and pass it as a parameter, or send one row at a time.",
        ));
    }
    let mut parts: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    // A row that no node can have fails on any.
    let mut nowhere = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        match shard_of(group, key, values)? {
            Some(shard) => parts.entry(shard.node).or_default().push(n),
            None => nowhere.push(n),
        }
    }
    if let Some(mut first) = parts.first_entry() {
        first.get_mut().append(&mut nowhere);
    }
    let (nodes, rows_of): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let parts = Parts { rows: rows_of, returns: rows.returns };
    Ok(Place::Every { group: group.id, nodes, merge: Merge::Rows(parts.into()) })
}

fn several_nodes(routes: &RoutingTable, a: Option<NodeId>, b: NodeId) -> Report {
    let name = |id: NodeId| routes.node(id).map_or_else(|| id.to_string(), |n| n.name.clone());
    Report::error("0A000", "the statement's rows live on several nodes")
        .detail(format!("At least {} and {}.", a.map(name).unwrap_or_default(), name(b)))
        .hint("Send one statement per distribution key, or per node.")
}

/// The shard of a key; `None`: no row has it, or PostgreSQL refuses the statement for it, on any node.
pub fn shard_of<'g>(
    group: &'g Group,
    key: &Key,
    values: &dyn Values,
) -> Result<Option<&'g Shard>, Report> {
    let mut parts: Vec<Option<KeyValue<'_>>> = Vec::with_capacity(key.len());
    for (source, &ty) in key.iter().zip(&group.key_types) {
        let value = match source {
            KeySource::Null => Ok(None),
            KeySource::Text(text) => ty.from_text(text).map(Some),
            KeySource::Integer { negative, digits } => ty.from_integer(*negative, digits).map(Some),
            KeySource::Param { index, alone } => {
                // A parameter that was not sent is the node's to complain about.
                let Some(given) = values.param(*index) else { return Ok(None) };
                let unsure = !alone && !is_certain(ty, &given);
                if unsure {
                    return Err(unsure_type(*index));
                }
                read(ty, given, false)
            }
            KeySource::Literal { index, negative } => {
                let given = values.literal(*index).ok_or_else(gone)?;
                read(ty, given, *negative)
            }
        };
        match value {
            // varchar(n) drops blanks that do not fit, so what is stored may hash otherwise.
            Ok(Some(v)) if !ty.stores_as_given(&v) => return Err(blank_ended()),
            Ok(v) => parts.push(v),
            Err(KeyError::OutOfRange(_) | KeyError::Never(_)) => return Ok(None),
            Err(e) => return Err(unreadable(ty, e)),
        }
    }
    let hash = match parts.as_slice() {
        [Some(one)] => one.row_hash(),
        several => row_hash(several),
    };
    Ok(Some(group.shard_of_hash(hash)))
}

fn read(
    ty: KeyType,
    given: Given<'_>,
    negative: bool,
) -> Result<Option<KeyValue<'static>>, KeyError> {
    match given {
        Given::Null => Ok(None),
        Given::Text(text) if !negative => ty.from_text(&text).map(KeyValue::into_owned).map(Some),
        Given::Text(_) => Err(KeyError::NotPlain(ty)),
        Given::Digits(digits) => ty.from_integer(negative, digits).map(Some),
        Given::Param { declared, binary, bytes } => {
            ty.from_param(declared, binary, bytes).map(KeyValue::into_owned).map(Some)
        }
    }
}

/// Whether a parameter that stands in several places has the key's value whatever type PostgreSQL
/// takes for it. Undeclared, it has the type of the place that is analysed first.
fn is_certain(ty: KeyType, given: &Given<'_>) -> bool {
    let Given::Param { declared: 0 | 705, binary, bytes } = given else { return true };
    match (ty, binary) {
        // As real it may be rounded above 2^24; as numeric, double precision or oid it is the same.
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, false) => {
            matches!(ty.from_text(bytes), Ok(KeyValue::Int(n)) if n.unsigned_abs() <= 1 << 24)
        }
        // No other type that compares with integers has values of this length; below 2^23 a real
        // of these bytes would be too small to be an integer, except zero.
        (KeyType::Int2, true) => true,
        (KeyType::Int4, true) => {
            matches!(ty.from_binary(bytes), Ok(KeyValue::Int(n)) if (0..1 << 23).contains(&n))
        }
        // Zero of numeric has eight bytes too.
        (KeyType::Int8, true) => false,
        // name is cut at 63 bytes, character(n) drops blanks at the end.
        (KeyType::Text | KeyType::Varchar, _) => bytes.len() < 64 && !bytes.ends_with(b" "),
        (KeyType::Uuid, _) => true,
        // Read as another type they may be another value, and hash otherwise.
        _ => false,
    }
}

fn unsure_type(index: usize) -> Report {
    Report::error("0A000", format!("cannot tell the type of parameter ${}", index + 1)).hint(
        "It stands in several places. Declare its type, or use a parameter of its own for the distribution column.",
    )
}

pub fn blank_ended() -> Report {
    Report::error("0A000", "cannot tell the shard of a character varying value that ends in blanks")
        .hint("Trim the distribution column's value.")
}

pub fn unreadable(ty: KeyType, e: KeyError) -> Report {
    let hint = match ty {
        KeyType::Date | KeyType::Timestamp => {
            "Write it year first, as '2026-01-31' or '2026-01-31 12:00:00', which no DateStyle changes.".to_owned()
        }
        KeyType::Timestamptz => {
            "Write it year first and with its offset, as '2026-01-31 12:00:00+00', which neither DateStyle nor \
             TimeZone changes."
                .to_owned()
        }
        ty => format!(
            "Write the distribution column's value as a plain {} or declare its type.",
            ty.name()
        ),
    };
    Report::error("0A000", format!("cannot tell the shard of this value: {e}")).hint(hint)
}
