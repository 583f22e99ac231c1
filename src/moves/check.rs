//! The preflight's judgement: facts read from both nodes in, words out. No IO.
//!
//! A refusal says what is missing and how to get it; it ends the move before anything was made. A
//! wait is something that passes by itself. A notice is told and changes nothing.

use std::time::Duration;

use super::harmless::Doubt;

/// What one node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    /// `server_version_num`.
    pub version: i32,
    pub wal_level: String,
    pub superuser: bool,
    pub slots_max: i64,
    pub slots_used: i64,
    pub wal_senders_max: i64,
    pub wal_senders_used: i64,
    pub logical_workers_max: i64,
    pub logical_workers_used: i64,
    /// Age of the oldest open transaction that can hold up a slot's creation, and who it is.
    pub oldest_transaction: Option<(Duration, String)>,
    /// Free bytes where the data directory is, if that can be seen from here.
    pub free_bytes: Option<u64>,
    /// Parents with a DETACH that has not finished.
    pub pending_detach: Vec<String>,
    /// The shard's schema exists here although this move has not made it.
    pub stray_schema: bool,
    pub tables: Vec<TableFacts>,
}

/// What one node says about one table of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// `schema.table`, as the catalog of the cluster has it.
    pub name: String,
    /// One line per column, index, constraint and trigger of the parent; `None`: no such table.
    pub schema: Option<Vec<String>>,
    /// Foreign keys at the parent's level that refer to another distributed table, or are referred to.
    pub parent_foreign_keys: Vec<String>,
    /// What a move of it cannot have evaluated: of the parent, on the source also of the leaf.
    pub doubts: Vec<Doubt>,
    /// Set on the source only.
    pub leaf: Option<LeafFacts>,
}

/// What the source says about a leaf that shall move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFacts {
    /// `schema.table` of the leaf.
    pub name: String,
    pub attached: bool,
    /// `pg_class.relpersistence`.
    pub permanent: bool,
    pub bytes: u64,
    pub identity: Identity,
    /// Prepared transactions that hold a lock on it.
    pub prepared: Vec<String>,
    /// Publications that name this leaf and not its table, each with its owner; those of moves are left
    /// out.
    pub published: Vec<String>,
}

/// How UPDATE and DELETE name a row to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// An immediate primary key, or REPLICA IDENTITY was set already to something that works.
    Given,
    /// REPLICA IDENTITY must be set to this index, which is unique and has no nullable column.
    Index(String),
    /// No key at all: REPLICA IDENTITY FULL.
    Full,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub refusals: Vec<String>,
    pub waits: Vec<String>,
    pub notices: Vec<String>,
}

const MIN_VERSION: i32 = 140_000;
/// One for this move in each direction, and for each leaf that is copied at the same time.
const SPARE_SLOTS: i64 = 2;
const SPARE_WORKERS: i64 = 2;

pub fn judge(source: &NodeFacts, target: &NodeFacts, oldest_allowed: Duration) -> Verdict {
    let mut v = Verdict::default();
    for node in [source, target] {
        judge_node(node, oldest_allowed, &mut v);
    }
    if target.version / 10_000 < source.version / 10_000 {
        v.notices.push(format!(
            "{} runs an older major version ({}) than {} ({})",
            target.name,
            target.version / 10_000,
            source.name,
            source.version / 10_000
        ));
    }
    if target.stray_schema {
        v.refusals.push(format!(
            "{} already has this shard's schema, and no move knows of it; look into it and drop it",
            target.name
        ));
    }
    let mut bytes = 0u64;
    for table in &source.tables {
        let other = target.tables.iter().find(|t| t.name == table.name);
        judge_table(source, target, table, other, &mut v);
        bytes = bytes.saturating_add(table.leaf.as_ref().map_or(0, |l| l.bytes));
    }
    // Indexes are part of the bytes; the factor is for what vacuum has not yet given back and WAL.
    let wanted = bytes.saturating_mul(2);
    match target.free_bytes {
        Some(free) if free < wanted => v.refusals.push(format!(
            "{} has {} MB free, and the shard wants {} MB (twice its size)",
            target.name,
            free >> 20,
            wanted >> 20
        )),
        Some(_) => {}
        None => v.notices.push(format!("free disk space of {} cannot be seen", target.name)),
    }
    v
}

fn judge_node(n: &NodeFacts, oldest_allowed: Duration, v: &mut Verdict) {
    let name = &n.name;
    if n.version < MIN_VERSION {
        v.refusals.push(format!("{name} runs PostgreSQL {}, 14 is needed", n.version / 10_000));
    }
    if n.wal_level != "logical" {
        v.refusals
            .push(format!("{name} has wal_level = {}; set it to logical and restart", n.wal_level));
    }
    if !n.superuser {
        v.refusals.push(format!("the service role is not a superuser on {name}"));
    }
    let mut spare = |what: &str, max: i64, used: i64, wanted: i64| {
        if max - used < wanted {
            v.refusals.push(format!(
                "{name} has {what} = {max}, {used} in use; a move needs {wanted} more"
            ));
        }
    };
    spare("max_replication_slots", n.slots_max, n.slots_used, SPARE_SLOTS);
    spare("max_wal_senders", n.wal_senders_max, n.wal_senders_used, SPARE_SLOTS);
    spare(
        "max_logical_replication_workers",
        n.logical_workers_max,
        n.logical_workers_used,
        SPARE_WORKERS,
    );
    if let Some((age, who)) = &n.oldest_transaction
        && *age > oldest_allowed
    {
        v.waits.push(format!("{name}: {who} has been open for {}s", age.as_secs()));
    }
    for parent in &n.pending_detach {
        v.waits.push(format!("{name}: a DETACH from {parent} has not finished"));
    }
}

fn judge_table(
    source: &NodeFacts,
    target: &NodeFacts,
    table: &TableFacts,
    other: Option<&TableFacts>,
    v: &mut Verdict,
) {
    let name = &table.name;
    let Some(here) = &table.schema else {
        v.refusals.push(format!("{} has no table {name}", source.name));
        return;
    };
    match other.and_then(|t| t.schema.as_ref()) {
        None => v.refusals.push(format!("{} has no table {name}", target.name)),
        Some(there) => {
            if let Some(line) = here.iter().find(|l| !there.contains(l)) {
                v.refusals.push(format!("{name} differs: only {} has: {line}", source.name));
            }
            if let Some(line) = there.iter().find(|l| !here.contains(l)) {
                v.refusals.push(format!("{name} differs: only {} has: {line}", target.name));
            }
        }
    }
    // Rows go both ways: after the switch the source follows the target.
    let version = source.version.min(target.version);
    for (node, doubts) in [(source, Some(&table.doubts)), (target, other.map(|t| &t.doubts))] {
        let first = doubts.into_iter().flatten().find(|d| d.counts(version));
        v.refusals.extend(first.map(|d| d.refusal(&node.name)));
    }
    for key in &table.parent_foreign_keys {
        v.refusals.push(format!(
            "foreign key {key} ties whole distributed tables together, so a shard cannot leave; \
             declare it from leaf to leaf"
        ));
    }
    let Some(leaf) = &table.leaf else {
        v.refusals.push(format!("{} has no leaf of {name} for this shard", source.name));
        return;
    };
    if !leaf.attached {
        v.refusals.push(format!("{} is not attached to {name} on {}", leaf.name, source.name));
    }
    if !leaf.permanent {
        v.refusals.push(format!(
            "{} is unlogged, and unlogged rows are not replicated; ALTER TABLE ... SET LOGGED",
            leaf.name
        ));
    }
    match &leaf.identity {
        Identity::Given => {}
        Identity::Index(index) => v.notices.push(format!(
            "{} has no immediate primary key; unique index {index} becomes its replica identity",
            leaf.name
        )),
        Identity::Full => v.notices.push(format!(
            "{} has no immediate key: REPLICA IDENTITY FULL makes replicated UPDATE and DELETE slow; it moves \
             well only when it is mostly inserted into",
            leaf.name
        )),
    }
    for publication in &leaf.published {
        v.refusals.push(format!(
            "{}: {publication} publishes {}, and its subscribers would miss all that is written \
             after the move; ALTER PUBLICATION ... DROP TABLE first, or publish the whole table on \
             every node",
            source.name, leaf.name
        ));
    }
    for who in &leaf.prepared {
        v.waits.push(format!("{}: prepared transaction {who} holds {}", source.name, leaf.name));
    }
}

#[cfg(test)]
mod tests {
    use super::super::harmless::Evaluated;
    use super::*;

    fn node(name: &str) -> NodeFacts {
        NodeFacts {
            name: name.into(),
            version: 150_018,
            wal_level: "logical".into(),
            superuser: true,
            slots_max: 10,
            slots_used: 0,
            wal_senders_max: 10,
            wal_senders_used: 0,
            logical_workers_max: 4,
            logical_workers_used: 0,
            oldest_transaction: None,
            free_bytes: Some(10 << 30),
            pending_detach: vec![],
            stray_schema: false,
            tables: vec![TableFacts {
                name: "public.orders".into(),
                schema: Some(vec!["column id integer".into()]),
                parent_foreign_keys: vec![],
                doubts: vec![],
                leaf: Some(LeafFacts {
                    name: "shard_1.orders".into(),
                    attached: true,
                    permanent: true,
                    bytes: 1 << 20,
                    identity: Identity::Given,
                    prepared: vec![],
                    published: vec![],
                }),
            }],
        }
    }

    fn verdict(change: impl FnOnce(&mut NodeFacts, &mut NodeFacts)) -> Verdict {
        let (mut s, mut t) = (node("a"), node("b"));
        t.tables[0].leaf = None;
        change(&mut s, &mut t);
        judge(&s, &t, Duration::from_secs(60))
    }

    fn doubt(when: Evaluated) -> Doubt {
        Doubt { when, what: "index i calls f()".into() }
    }

    #[test]
    fn what_rows_evaluate_is_the_owners_from_16_on_and_what_the_move_evaluates_never_is() {
        let v = |source, target, when| {
            verdict(|s, t| {
                (s.version, t.version) = (source, target);
                t.tables[0].doubts.push(doubt(when));
            })
        };
        assert_eq!(v(170_000, 160_000, Evaluated::ByRows).refusals, Vec::<String>::new());
        for (source, target) in [(150_000, 170_000), (170_000, 140_000)] {
            assert_eq!(v(source, target, Evaluated::ByRows).refusals.len(), 1);
        }
        assert_eq!(v(170_000, 170_000, Evaluated::ByMove).refusals.len(), 1);
    }

    #[test]
    fn two_sound_nodes_pass_without_a_word() {
        assert_eq!(verdict(|_, _| {}), Verdict::default());
    }

    #[test]
    fn each_lack_is_refused_in_words() {
        type Change = fn(&mut NodeFacts, &mut NodeFacts);
        let cases: &[(Change, &str)] = &[
            (|s, _| s.wal_level = "replica".into(), "a has wal_level = replica; set it"),
            (|_, t| t.version = 130_004, "b runs PostgreSQL 13, 14 is needed"),
            (|s, _| s.slots_used = 9, "a has max_replication_slots = 10, 9 in use"),
            (|_, t| t.logical_workers_max = 1, "b has max_logical_replication_workers = 1"),
            (|_, t| t.free_bytes = Some(1 << 20), "b has 1 MB free, and the shard wants 2 MB"),
            (|_, t| t.stray_schema = true, "b already has this shard's schema"),
            (|_, t| t.tables[0].schema = None, "b has no table public.orders"),
            (
                |_, t| t.tables[0].schema = Some(vec!["column id bigint".into()]),
                "public.orders differs: only a has: column id integer",
            ),
            (|s, _| s.tables[0].leaf = None, "a has no leaf of public.orders"),
            (
                |s, _| s.tables[0].leaf.as_mut().unwrap().permanent = false,
                "shard_1.orders is unlogged",
            ),
            (
                |s, _| s.tables[0].parent_foreign_keys.push("items_fk".into()),
                "foreign key items_fk ties whole distributed tables",
            ),
            (
                |s, _| s.tables[0].doubts.push(doubt(Evaluated::ByMove)),
                "a: index i calls f(); a move evaluates it",
            ),
            (
                |_, t| t.tables[0].doubts.push(doubt(Evaluated::ByRows)),
                "b: index i calls f(); PostgreSQL before 16 evaluates it",
            ),
            (|s, _| s.superuser = false, "the service role is not a superuser on a"),
        ];
        for (change, words) in cases {
            let v = verdict(change);
            assert!(v.refusals.iter().any(|r| r.starts_with(words)), "{words}: {v:?}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_waited_for() {
        let v = verdict(|s, t| {
            s.tables[0].leaf.as_mut().unwrap().prepared.push("'gid' of bob".into());
            t.oldest_transaction = Some((Duration::from_secs(61), "pid 5 of bob".into()));
            s.pending_detach.push("public.orders".into());
        });
        assert!(v.refusals.is_empty());
        assert_eq!(
            v.waits,
            [
                "a: a DETACH from public.orders has not finished",
                "b: pid 5 of bob has been open for 61s",
                "a: prepared transaction 'gid' of bob holds shard_1.orders",
            ]
        );
    }

    #[test]
    fn a_table_without_a_key_moves_with_a_notice() {
        let v = verdict(|s, t| {
            s.tables[0].leaf.as_mut().unwrap().identity = Identity::Full;
            t.free_bytes = None;
        });
        assert!(v.refusals.is_empty());
        assert!(v.notices[0].contains("REPLICA IDENTITY FULL"));
        assert_eq!(v.notices[1], "free disk space of b cannot be seen");
    }
}
