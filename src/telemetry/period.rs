//! The averages' period: what each database had done at the two ends of the last one.
//!
//! PgBouncer's averages are of the last whole period (`stats_period`), not since the start, so that
//! a graph of them moves. The control runtime ends a period by the clock; nobody else writes here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::WorkerSums;

type Sums = BTreeMap<String, WorkerSums>;

#[derive(Debug, Default)]
pub struct Period {
    older: Option<(Instant, Sums)>,
    newer: Option<(Instant, Sums)>,
}

impl Period {
    pub fn end(&mut self, now: Instant, sums: Sums) {
        self.older = self.newer.replace((now, sums));
    }

    /// Its length and the figures at its ends; `None` before the first whole one.
    pub fn last(&self, database: &str) -> Option<(Duration, WorkerSums, WorkerSums)> {
        let ((from, older), (to, newer)) = (self.older.as_ref()?, self.newer.as_ref()?);
        // A database that nobody had used until then had done nothing.
        let of = |sums: &Sums| sums.get(database).cloned().unwrap_or_default();
        Some((to.saturating_duration_since(*from), of(older), of(newer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_lies_between_the_last_two_ends() {
        let (mut p, t) = (Period::default(), Instant::now());
        let sums = |binds| {
            let mut sums = WorkerSums::default();
            sums.binds = binds;
            Sums::from([("d".to_owned(), sums)])
        };
        p.end(t, sums(1));
        assert!(p.last("d").is_none(), "it has only begun");
        p.end(t + Duration::from_secs(60), sums(7));
        p.end(t + Duration::from_secs(90), sums(8));
        let (took, older, newer) = p.last("d").unwrap();
        assert_eq!((took.as_secs(), older.binds, newer.binds), (30, 7, 8));
        assert_eq!(p.last("other").unwrap().2.binds, 0);
    }
}
