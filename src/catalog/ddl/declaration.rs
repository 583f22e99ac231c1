//! What is said of a partition of a distributed table, read off PostgreSQL's own grammar.

use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{self, AlterTableType as Alter};

use super::DdlError;
use super::naming::{Name, broken, name_of};

/// A part of a table's rows, told by a hash of its distribution columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub modulus: i32,
    pub remainder: i32,
}

/// What is said of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub table: Name,
    pub name: Name,
    pub bound: Bound,
    /// CREATE TABLE IF NOT EXISTS
    pub if_not_exists: bool,
}

pub fn refused(what: &str) -> DdlError {
    DdlError::unsupported(format!("a partition of a distributed table cannot {what}"))
        .hint("Its rows are in the table's shards: say so of the table.")
}

fn bound(spec: Option<&nodes::PartitionBoundSpec>) -> Result<Bound, DdlError> {
    let spec = spec.ok_or_else(broken)?;
    if spec.strategy as u8 != b'h' || spec.is_default {
        return Err(DdlError::new("42P16", "invalid bound specification for a hash partition")
            .hint("FOR VALUES WITH (MODULUS m, REMAINDER r)"));
    }
    let (modulus, remainder) = (spec.modulus, spec.remainder);
    if modulus <= 0 {
        let what = "modulus for hash partition must be an integer value greater than zero";
        return Err(DdlError::new("42P16", what));
    }
    if !(0..modulus).contains(&remainder) {
        let what = match remainder {
            ..0 => {
                "remainder for hash partition must be an integer value greater than or equal to zero"
            }
            _ => "remainder for hash partition must be less than modulus",
        };
        return Err(DdlError::new("42P16", what));
    }
    Ok(Bound { modulus, remainder })
}

/// `CREATE TABLE .. PARTITION OF`
pub fn of_create(s: &nodes::CreateStmt) -> Result<Partition, DdlError> {
    let relation = s.relation().ok_or_else(broken)?;
    let mut parents = s.inh_relations().iter();
    let (Some(Node::RangeVar(parent)), None) = (parents.next(), parents.next()) else {
        return Err(broken());
    };
    if s.partspec().is_some() {
        return Err(refused("be partitioned further"));
    }
    if relation.relpersistence as u8 != b'p' {
        return Err(refused("be temporary or unlogged"));
    }
    if s.table_elts().iter().next().is_some() || s.constraints().iter().next().is_some() {
        return Err(refused("have constraints or defaults of its own"));
    }
    if s.tablespacename().is_some() || s.access_method().is_some() {
        return Err(refused("have a tablespace or an access method of its own"));
    }
    Ok(Partition {
        table: name_of(parent)?,
        name: name_of(relation)?,
        bound: bound(s.partbound())?,
        if_not_exists: s.if_not_exists,
    })
}

/// `ALTER TABLE .. ATTACH PARTITION`, which is alone in its statement; `None`: it is another one.
pub fn of_alter(
    relation: &nodes::RangeVar,
    commands: &NodeList,
) -> Option<Result<Partition, DdlError>> {
    let mut commands = commands.iter();
    let (Some(Node::AlterTableCmd(c)), None) = (commands.next(), commands.next()) else {
        return None;
    };
    if c.subtype != Alter::AT_AttachPartition {
        return None;
    }
    let Node::PartitionCmd(p) = c.def() else { return Some(Err(broken())) };
    let attach = || {
        Ok(Partition {
            table: name_of(relation)?,
            name: name_of(p.name().ok_or_else(broken)?)?,
            bound: bound(p.bound())?,
            if_not_exists: false,
        })
    };
    Some(attach())
}
