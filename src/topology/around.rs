//! What the router must know of the home node's catalogs besides the distributed tables themselves.

use std::sync::Arc;

/// What there is around the distributed tables at home. Pairs are schema and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// Sequences that distributed tables own: each node has a slot in them.
    pub sequences: Arc<[(String, String)]>,
    /// Indexes of distributed tables.
    pub indexes: Arc<[(String, String)]>,
    /// Relations of the home node alone that have the name of a distributed table in another schema.
    pub namesakes: Arc<[(String, String)]>,
    /// Schemas that are called like a role, so that `"$user"` may mean them.
    pub roles_schemas: Arc<[String]>,
    /// A distributed table uses a function, a type or the like that PostgreSQL did not come with.
    pub needs_others: bool,
    /// Distributed tables that have row security policies, which may call anything.
    pub with_policies: Arc<[(String, String)]>,
    /// Generated columns of distributed tables: schema, table and column.
    pub generated: Arc<[(String, String, String)]>,
    /// Defaults of reference tables: schema, table, column, and the expression as SQL.
    pub defaults: Arc<[(String, String, String, String)]>,
    /// Distributed tables with a trigger that fires once for a statement that inserts.
    pub with_statement_triggers: Arc<[(String, String)]>,
    /// Distribution columns that have a default, or are identity columns.
    pub key_defaults: Arc<[ColumnDefault]>,
    /// Columns of distributed tables whose default tells the time.
    pub timed_defaults: Arc<[ColumnDefault]>,
    /// Somebody has made an operator or a cast that may do more than compute.
    pub own_operators: bool,
}

/// What a row gets in a column that its INSERT does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDefault {
    pub schema: String,
    pub table: String,
    pub column: String,
    /// As PostgreSQL writes it, names of other schemas than pg_catalog with their schemas.
    pub expression: String,
}

/// As borrowed pairs.
pub(super) fn pairs(of: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    of.iter().map(|(schema, name)| (schema.as_str(), name.as_str()))
}
