//! What a writer was promised, and whether the nodes kept the promise.
//!
//! Every writer owns its rows, so what it was told is what must be there: an acknowledged INSERT is
//! a row, each acknowledged UPDATE adds one to its payload. A write whose answer never came may have
//! happened or not; it allows either and asserts nothing.
//!
//! At the end [`audit`] compares the ledgers with all rows of all nodes. A write that was applied
//! twice shows as a payload too large, a row served by two nodes as a row found twice.

use std::collections::BTreeMap;

/// One writer's rows.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: BTreeMap<i32, Entry>,
    acknowledged: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Whether an INSERT was acknowledged.
    inserted: bool,
    /// Acknowledged additions, and those without an answer.
    added: u32,
    unanswered: u32,
}

impl Ledger {
    /// A row that was there before this writer began: it must stay, and counts as nobody's write.
    pub fn given(&mut self, id: i32) {
        self.rows.entry(id).or_default().inserted = true;
    }

    pub fn inserted(&mut self, id: i32) {
        self.rows.entry(id).or_default().inserted = true;
        self.acknowledged += 1;
    }

    pub fn added(&mut self, id: i32) {
        self.rows.entry(id).or_default().added += 1;
        self.acknowledged += 1;
    }

    /// The INSERT of `id` got no answer: the row may be there.
    pub fn insert_unanswered(&mut self, id: i32) {
        self.rows.entry(id).or_default();
    }

    pub fn add_unanswered(&mut self, id: i32) {
        self.rows.entry(id).or_default().unanswered += 1;
    }

    /// Acknowledged writes.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Acknowledged rows.
    pub fn rows(&self) -> usize {
        self.rows.values().filter(|e| e.inserted).count()
    }

    /// Whether a read of this writer's own row may show `payload`.
    pub fn allows(&self, id: i32, payload: f32) -> bool {
        self.rows.get(&id).is_some_and(|e| {
            let payload = f64::from(payload);
            f64::from(e.added) <= payload && payload <= f64::from(e.added + e.unanswered)
        })
    }
}

/// What came of all acknowledged writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more often than acknowledged, or on two nodes.
    pub doubled: u64,
    /// Rows nobody wrote.
    pub unknown: u64,
    /// The first few findings in words.
    pub findings: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.unknown == 0
    }

    fn find(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < 10 {
            self.findings.push(finding());
        }
    }
}

/// Compares the ledgers with `found`: every (id, payload) of every node, copies included.
pub fn audit(ledgers: &[Ledger], found: impl IntoIterator<Item = (i32, f32)>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut copies: BTreeMap<i32, Vec<f64>> = BTreeMap::new();
    for (id, payload) in found {
        copies.entry(id).or_default().push(f64::from(payload));
    }
    for (id, entry) in ledgers.iter().flat_map(|l| &l.rows) {
        let there = copies.remove(id).unwrap_or_default();
        let Some(payload) = there.iter().copied().reduce(f64::max) else {
            let writes = u64::from(entry.inserted) + u64::from(entry.added);
            if writes > 0 {
                verdict.lost += writes;
                verdict.find(|| format!("row {id} is gone with {writes} acknowledged writes"));
            }
            continue;
        };
        if there.len() > 1 {
            verdict.doubled += there.len() as u64 - 1;
            verdict.find(|| format!("row {id} is there {} times: {there:?}", there.len()));
        }
        let (least, most) = (f64::from(entry.added), f64::from(entry.added + entry.unanswered));
        if payload < least {
            verdict.lost += (least - payload).ceil() as u64;
            verdict.find(|| format!("row {id} has {payload}, {least} were acknowledged"));
        } else if payload > most {
            verdict.doubled += (payload - most).ceil() as u64;
            verdict.find(|| format!("row {id} has {payload}, at most {most} were sent"));
        }
    }
    for (id, there) in copies {
        verdict.unknown += there.len() as u64;
        verdict.find(|| format!("row {id} was written by nobody: {there:?}"));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for id in [1, 2, 3] {
            ledger.inserted(id);
        }
        ledger.added(2);
        ledger.added(2);
        ledger
    }

    fn judge(found: &[(i32, f32)]) -> (u64, u64, u64) {
        let verdict = audit(&[ledger()], found.iter().copied());
        assert_eq!(verdict.is_clean(), verdict.findings.is_empty());
        (verdict.lost, verdict.doubled, verdict.unknown)
    }

    #[test]
    fn what_was_promised_is_clean() {
        assert_eq!(judge(&[(1, 0.0), (2, 2.0), (3, 0.0)]), (0, 0, 0));
    }

    #[test]
    fn a_missing_row_loses_all_its_writes() {
        assert_eq!(judge(&[(1, 0.0), (3, 0.0)]), (3, 0, 0));
    }

    #[test]
    fn a_lost_update_and_a_repeated_one_show_in_the_payload() {
        assert_eq!(judge(&[(1, 0.0), (2, 1.0), (3, 0.0)]), (1, 0, 0));
        assert_eq!(judge(&[(1, 1.0), (2, 2.0), (3, 0.0)]), (0, 1, 0));
    }

    #[test]
    fn a_row_on_two_nodes_is_doubled_and_a_strange_one_is_unknown() {
        assert_eq!(judge(&[(1, 0.0), (1, 0.0), (2, 2.0), (3, 0.0)]), (0, 1, 0));
        assert_eq!(judge(&[(1, 0.0), (2, 2.0), (3, 0.0), (4, 0.0)]), (0, 0, 1));
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened() {
        let with = |found: &[(i32, f32)]| {
            let mut ledger = ledger();
            ledger.add_unanswered(1);
            ledger.insert_unanswered(4);
            audit(&[ledger], found.iter().copied()).is_clean()
        };
        assert!(with(&[(1, 0.0), (2, 2.0), (3, 0.0)]));
        assert!(with(&[(1, 1.0), (2, 2.0), (3, 0.0), (4, 0.0)]));
        assert!(!with(&[(1, 2.0), (2, 2.0), (3, 0.0)]), "but not twice");
    }

    #[test]
    fn a_read_must_show_the_writers_own_writes() {
        let ledger = ledger();
        assert!(ledger.allows(2, 2.0));
        assert!(!ledger.allows(2, 1.0) && !ledger.allows(2, 3.0) && !ledger.allows(9, 0.0));
    }
}
