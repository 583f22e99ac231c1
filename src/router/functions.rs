//! What is known of functions by name.
//!
//! A function the server came with reads no application table, so it may run beside a shard. Of
//! any other function the proxy cannot know what it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;
use pg_raw_parse::{Node, nodes};

/// Names of the built-in functions, as the home node's `pg_proc` lists them.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    builtin: Arc<HashSet<String>>,
    /// Those of which every overload is immutable or stable, and that call no other function by its number.
    stable: Arc<HashSet<String>>,
    /// Those of which every node says the same.
    steady: Arc<HashSet<String>>,
    aggregates: Arc<HashSet<String>>,
    /// Those that may return a set.
    sets: Arc<HashSet<String>>,
    /// Those that read and change nothing a node has to itself.
    free: Arc<HashSet<String>>,
    server_major: u32,
}

/// One function of `pg_proc`, all its overloads taken together.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// Immutable or stable.
    pub stable: bool,
    /// An overload of it is an aggregate.
    pub aggregate: bool,
    /// An overload of it returns a set.
    pub set: bool,
}

impl Functions {
    pub fn new(all: impl IntoIterator<Item = Function>) -> Self {
        let mut known = [(); 6].map(|()| HashSet::new());
        for f in all {
            let [builtin, stable, steady, aggregates, sets, free] = &mut known;
            let differs = differs_by_node(&f.name) && !is_of_the_login(&f.name);
            if f.stable && !reads_values_of_any_type(&f.name) {
                stable.insert(f.name.clone());
            }
            if f.stable && !differs {
                steady.insert(f.name.clone());
            }
            if f.aggregate {
                aggregates.insert(f.name.clone());
            }
            if f.set {
                sets.insert(f.name.clone());
            }
            if f.stable && !differs || is_of_the_session(&f.name) {
                free.insert(f.name.clone());
            }
            builtin.insert(f.name);
        }
        let [builtin, stable, steady, aggregates, sets, free] = known.map(Arc::new);
        Self { builtin, stable, steady, aggregates, sets, free, server_major: 0 }
    }

    /// The functions of a server of this major version.
    #[must_use]
    pub fn of_server(self, server_major: u32) -> Self {
        Self { server_major, ..self }
    }

    pub fn server_major(&self) -> u32 {
        self.server_major
    }

    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Changes nothing: PostgreSQL itself declares it immutable or stable, and it calls nothing by a name or
    /// number that it is given. [`reads_by_name`] is to be asked too.
    pub fn is_stable(&self, name: &str) -> bool {
        self.stable.contains(name)
    }

    /// Gives the same for the same rows on every node.
    pub fn is_steady(&self, name: &str) -> bool {
        self.steady.contains(name)
    }

    /// Makes one value of many rows, unless it is called over a window.
    pub fn is_aggregate(&self, name: &str) -> bool {
        self.aggregates.contains(name)
    }

    /// May give several rows for one.
    pub fn returns_set(&self, name: &str) -> bool {
        self.sets.contains(name)
    }

    /// Gives another value for each row anyway, and changes nothing.
    pub fn is_of_the_row(&self, name: &str) -> bool {
        let volatile = matches!(
            name,
            "random"
                | "random_normal"
                | "gen_random_uuid"
                | "uuidv4"
                | "clock_timestamp"
                | "timeofday"
        );
        volatile && self.is_builtin(name)
    }

    /// May run on any one node.
    pub fn is_free(&self, name: &str) -> bool {
        self.free.contains(name)
    }
}

/// Schema and name of a function call. The database that may stand before them can only be the one that
/// the session is in.
pub fn name_of(f: &nodes::FuncCall) -> Option<(Option<&str>, &str)> {
    let parts = f.funcname();
    let part = |at: usize| parts.get(at).and_then(Node::as_str);
    match parts.len() {
        1 => Some((None, part(0)?)),
        n @ (2 | 3) => Some((Some(part(n - 2)?), part(n - 1)?)),
        _ => None,
    }
}

/// Built-in functions that read a table or run a query whose name or text they are given.
pub fn reads_by_name(name: &str, arguments: usize) -> bool {
    ["query_to_xml", "table_to_xml", "schema_to_xml", "database_to_xml", "cursor_to_xml", "ts_stat"]
        .iter()
        .any(|p| name.starts_with(p))
        || name == "ts_rewrite" && arguments == 2
}

/// Functions that make a value of a type they are given by its number or name: of a domain, whose CHECK
/// may call anything.
fn reads_values_of_any_type(name: &str) -> bool {
    name.ends_with("_in") || name.ends_with("_recv") || name.starts_with("pg_input_")
}

/// Functions whose answer is the session's, or nobody's, whichever node gives it.
fn is_of_the_session(name: &str) -> bool {
    name.starts_with("current_")
        || name.starts_with("pg_sleep")
        || matches!(
            name,
            "now"
                | "transaction_timestamp"
                | "statement_timestamp"
                | "clock_timestamp"
                | "timeofday"
                | "random"
                | "random_normal"
                | "setseed"
                | "gen_random_uuid"
                | "version"
                | "age"
                | "set_config"
                | "pg_backend_pid"
                | "pg_typeof"
                | "pg_column_size"
                | "pg_size_pretty"
                | "pg_size_bytes"
                | "pg_client_encoding"
                | "pg_is_in_recovery"
                | "pg_current_xact_id"
                | "pg_current_xact_id_if_assigned"
                | "txid_current"
                | "txid_current_if_assigned"
        )
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

/// Functions that say the same of a session on every node, although others of such names do not.
fn is_of_the_login(name: &str) -> bool {
    matches!(name, "current_database" | "current_user" | "session_user" | "current_role" | "user")
}

/// The pin of session advisory locks. A statement that takes one and then fails keeps it.
pub const ADVISORY_LOCK: &str = "a session advisory lock";

/// Functions that leave something on the server connection, and what SHOW CLIENTS calls it.
pub fn pins(name: &str) -> Option<&'static str> {
    match name {
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Some(ADVISORY_LOCK),
        _ => None,
    }
}

/// Functions that leave what the server does not tell of, or gives up only with its process; with so
/// many arguments.
pub fn binds(name: &str, arguments: usize) -> Option<&'static str> {
    match name {
        "setseed" => Some("setseed()"),
        "pg_replication_origin_session_setup" => Some("a replication origin"),
        "pg_backup_start" | "pg_start_backup" => Some("a base backup"),
        // Whose third argument says whether the slot is a temporary one.
        "pg_create_physical_replication_slot"
        | "pg_create_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
            if arguments > 2 =>
        {
            Some("a temporary replication slot")
        }
        "dblink_connect" | "dblink_connect_u" => Some("a dblink connection"),
        _ => None,
    }
}

/// Functions that may end what others have left.
pub fn frees(name: &str) -> bool {
    matches!(name, "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all")
}

/// Which functions of a database are known to leave nothing behind on their connection: by name,
/// as the server has judged them. Forgotten whenever a function is made or changed.
#[derive(Debug, Default)]
pub struct Harmless {
    names: HashSet<String>,
    since: u64,
}

/// Counts the changes of functions that went through this process.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// A function was made or changed, and that is committed.
pub fn functions_changed() {
    CHANGES.fetch_add(1, Ordering::AcqRel);
}

/// The number of changes so far: what is judged from here on holds until there are more.
pub fn function_changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// The same of tables and of what is behind them.
static TABLE_CHANGES: AtomicU64 = AtomicU64::new(0);

pub fn tables_changed() {
    TABLE_CHANGES.fetch_add(1, Ordering::AcqRel);
}

pub fn table_changes() -> u64 {
    TABLE_CHANGES.load(Ordering::Acquire)
}

impl Harmless {
    pub fn knows(&self, name: &str) -> bool {
        self.since == function_changes() && self.names.contains(name)
    }

    /// These were judged by what the server said after `since` changes.
    pub fn learn(&mut self, since: u64, names: impl IntoIterator<Item = String>) {
        /// More names than any one schema has use for; past it they are learned anew.
        const MOST: usize = 10_000;
        if self.since != since || self.names.len() > MOST {
            self.names.clear();
            self.since = since;
        }
        self.names.extend(names);
    }
}
