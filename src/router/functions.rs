//! What is known of functions by name.
//!
//! A function the server came with reads no application table, so it may run beside a shard. Of
//! any other function the proxy cannot know what it reads.

use std::sync::Arc;

use hashbrown::HashSet;

/// Names of the built-in functions, as the home node's `pg_proc` lists them.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    builtin: Arc<HashSet<String>>,
    /// Those of which every overload is immutable or stable, returns no set and is no aggregate.
    steady: Arc<HashSet<String>>,
}

impl Functions {
    /// From rows of (name, steady).
    pub fn new(rows: impl IntoIterator<Item = (String, bool)>) -> Self {
        let mut builtin = HashSet::new();
        let mut steady = HashSet::new();
        for (name, is_steady) in rows {
            if is_steady && !differs_by_node(&name) {
                steady.insert(name.clone());
            }
            builtin.insert(name);
        }
        Self { builtin: Arc::new(builtin), steady: Arc::new(steady) }
    }

    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Gives the same on every node, row by row.
    pub fn is_steady(&self, name: &str) -> bool {
        self.steady.contains(name)
    }
}

/// Stable functions whose answer is the node's, not the cluster's.
fn differs_by_node(name: &str) -> bool {
    [
        "pg_",
        "inet_",
        "txid_",
        "has_",
        "row_security_",
        "to_reg",
        "current_",
        "obj_",
        "col_",
        "shobj_",
    ]
    .iter()
    .any(|p| name.starts_with(p))
        || matches!(
            name,
            "now"
                | "transaction_timestamp"
                | "statement_timestamp"
                | "version"
                | "format_type"
                | "lastval"
                | "currval"
                | "age"
        )
}

/// Functions that leave something on the server connection, and what SHOW CLIENTS calls it.
pub fn pins(name: &str) -> Option<&'static str> {
    match name {
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Some("a session advisory lock"),
        "set_config" => Some("set_config()"),
        "lastval" | "currval" => Some("a sequence's current value"),
        "pg_listening_channels" => Some("LISTEN"),
        _ => None,
    }
}
