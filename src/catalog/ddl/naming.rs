//! Names as a client's DDL writes them.

use pg_raw_parse::Node;
use pg_raw_parse::nodes;

use super::DdlError;

/// A table or index as the client wrote it, folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub schema: Option<String>,
    pub name: String,
}

impl Name {
    /// Quoted where needed, as `to_regclass` wants it.
    pub fn quoted(&self) -> String {
        use postgres_protocol::escape::escape_identifier as quote;
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.name)),
            None => quote(&self.name),
        }
    }
}

pub fn name_of(r: &nodes::RangeVar) -> Result<Name, DdlError> {
    if r.catalogname().is_some() {
        return Err(DdlError::unsupported("a table's name cannot name the database here"));
    }
    Ok(Name {
        schema: r.schemaname().map(Into::into),
        name: r.relname().ok_or_else(broken)?.into(),
    })
}

pub fn list_name(n: Node<'_>) -> Result<Name, DdlError> {
    let parts: Option<Vec<&str>> =
        n.as_node_list().and_then(|l| l.iter().map(Node::as_str).collect());
    name_from(parts.ok_or_else(broken)?)
}

pub fn type_name(t: &nodes::TypeName) -> Result<Name, DdlError> {
    if t.setof || t.pct_type {
        return Err(DdlError::unsupported("%TYPE and SETOF are not supported here"));
    }
    let parts: Option<Vec<&str>> = t.names().iter().map(|s| s.sval()).collect();
    name_from(parts.ok_or_else(broken)?)
}

pub fn name_from(parts: Vec<&str>) -> Result<Name, DdlError> {
    match parts.as_slice() {
        [name] => Ok(Name { schema: None, name: (*name).into() }),
        [schema, name] => Ok(Name { schema: Some((*schema).into()), name: (*name).into() }),
        _ => Err(DdlError::unsupported("a name cannot name the database here")),
    }
}

/// A tree the grammar does not make.
pub fn broken() -> DdlError {
    DdlError::unsupported("this statement is not understood well enough to run it on all nodes")
}
