//! What the writers were promised, and whether the nodes keep it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::support::{LocalCluster, connect};

/// What one writer was promised.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    pub certain: BTreeMap<i32, i64>,
    pub doubtful: Vec<Doubt>,
}

/// Changes of one transaction that got no answer: all or none of them happened.
#[derive(Debug, Clone)]
pub struct Doubt {
    pub rows: Vec<(i32, Option<i64>, Option<i64>)>,
}

/// All rows of the writers on all nodes, through the parents.
pub async fn rows(nodes: &LocalCluster) -> BTreeMap<i32, Vec<i64>> {
    let mut all = BTreeMap::<i32, Vec<i64>>::new();
    for node in &nodes.nodes {
        let c = connect(node.port()).await;
        let there = "SELECT to_regclass('public.accounts') IS NOT NULL";
        if !c.query_one(there, &[]).await.unwrap().get::<_, bool>(0) {
            continue;
        }
        let rows = c.query("SELECT id, v::bigint FROM public.accounts WHERE owner >= 0", &[]).await;
        for r in rows.unwrap() {
            all.entry(r.get(0)).or_default().push(r.get(1));
        }
    }
    all
}

pub fn judge(ledgers: &BTreeMap<i32, Ledger>, mut found: BTreeMap<i32, Vec<i64>>, case: &str) {
    let mut wrong = String::new();
    for (id, values) in &found {
        if values.len() > 1 {
            let _ = writeln!(wrong, "row {id} is there {} times: {values:?}", values.len());
        }
    }
    for ledger in ledgers.values() {
        for (id, v) in &ledger.certain {
            let there = found.remove(id).and_then(|v| v.first().copied());
            if there != Some(*v) {
                let _ = writeln!(wrong, "row {id} should be {v}, is {there:?}");
            }
        }
        for doubt in &ledger.doubtful {
            let now: Vec<Option<i64>> = doubt
                .rows
                .iter()
                .map(|(id, ..)| found.remove(id).and_then(|v| v.first().copied()))
                .collect();
            let before: Vec<Option<i64>> = doubt.rows.iter().map(|r| r.1).collect();
            let after: Vec<Option<i64>> = doubt.rows.iter().map(|r| r.2).collect();
            if now != before && now != after {
                let _ = writeln!(wrong, "unanswered {doubt:?} has become {now:?}");
            }
        }
    }
    for id in found.keys() {
        let _ = writeln!(wrong, "row {id} was written by nobody, or deleted");
    }
    let first: Vec<&str> = wrong.lines().take(12).collect();
    assert!(wrong.is_empty(), "{case}: {} findings\n{}", wrong.lines().count(), first.join("\n"));
}
