//! Counters and histograms with one writer each.
//!
//! A counter is an `AtomicU64` that one worker stores into and others load from, all relaxed.
//! `add` is a load and a store, not a locked read-modify-write: that costs a nanosecond less on the
//! way of every statement, and is right because each [`WorkerStats`] belongs to one worker. From a
//! second thread an addition could be lost, which is why nothing hands out another worker's.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::wire::blame::Blame;

/// A number that only grows, written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Four buckets to each power of two, from 1 us to some two minutes; what is longer counts in the
/// last one. A bucket is at most a quarter wider than its lower bound.
const BUCKETS: usize = 104;

/// How long something took, in microseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

impl Histogram {
    #[inline]
    pub fn record(&self, took: Duration) {
        self.record_us(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    #[inline]
    pub fn record_us(&self, us: u64) {
        self.buckets[bucket_of(us)].inc();
        self.sum_us.add(us);
    }
}

#[inline]
fn bucket_of(us: u64) -> usize {
    if us < 4 {
        return us as usize;
    }
    let octave = 63 - us.leading_zeros() as usize;
    let quarter = (us >> (octave - 2)) as usize & 3;
    ((octave - 1) * 4 + quarter).min(BUCKETS - 1)
}

/// The first value, in microseconds, that no longer counts in this bucket.
fn upper_bound_us(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64 + 1;
    }
    let (octave, quarter) = (bucket / 4 + 1, bucket as u64 % 4);
    (5 + quarter) << (octave - 2)
}

/// Several histograms added up.
#[derive(Debug, Clone)]
pub struct HistogramSum {
    buckets: [u64; BUCKETS],
    pub sum_us: u64,
}

impl Default for HistogramSum {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_us: 0 }
    }
}

impl HistogramSum {
    pub fn add(&mut self, h: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&h.buckets) {
            *sum += bucket.get();
        }
        self.sum_us = self.sum_us.wrapping_add(h.sum_us.get());
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The smallest bucket bound that at least this share (0 to 1) of the values lies below.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return Some(Duration::from_micros(upper_bound_us(i)));
            }
        }
        None
    }

    /// `(upper bound in microseconds, values below it)` for each power of two: what Prometheus is
    /// given. The last bucket's values count only in `+Inf`.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut seen = 0;
        self.buckets.iter().enumerate().filter_map(move |(i, n)| {
            seen += n;
            (i % 4 == 3 && i + 1 < BUCKETS).then(|| (upper_bound_us(i), seen))
        })
    }
}

/// What the planner made of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    SingleShard,
    /// One node, without a shard: the home node, a local table, any node.
    SingleNode,
    EveryNode,
    /// Answered by the session itself, or kept as its state.
    Session,
    Refused,
}

impl PlanKind {
    pub const ALL: [Self; 5] =
        [Self::SingleShard, Self::SingleNode, Self::EveryNode, Self::Session, Self::Refused];

    pub fn name(self) -> &'static str {
        match self {
            Self::SingleShard => "single_shard",
            Self::SingleNode => "single_node",
            Self::EveryNode => "every_node",
            Self::Session => "session",
            Self::Refused => "refused",
        }
    }
}

macro_rules! figures {
    (
        counters { $($(#[$cdoc:meta])* $counter:ident),* $(,)? }
        histograms { $($(#[$hdoc:meta])* $histogram:ident),* $(,)? }
    ) => {
        /// One worker's figures. Aligned so that two workers never share a cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct WorkerStats {
            $($(#[$cdoc])* pub $counter: Counter,)*
            $($(#[$hdoc])* pub $histogram: Histogram,)*
            statements: [Counter; PlanKind::ALL.len()],
            errors: [Counter; Blame::ALL.len()],
        }

        /// The figures of all workers, added up.
        #[derive(Debug, Clone, Default)]
        pub struct WorkerSums {
            $($(#[$cdoc])* pub $counter: u64,)*
            $($(#[$hdoc])* pub $histogram: HistogramSum,)*
            statements: [u64; PlanKind::ALL.len()],
            errors: [u64; Blame::ALL.len()],
        }

        impl WorkerSums {
            pub fn add(&mut self, w: &WorkerStats) {
                $(self.$counter = self.$counter.wrapping_add(w.$counter.get());)*
                $(self.$histogram.add(&w.$histogram);)*
                for (sum, c) in self.statements.iter_mut().zip(&w.statements) {
                    *sum += c.get();
                }
                for (sum, c) in self.errors.iter_mut().zip(&w.errors) {
                    *sum += c.get();
                }
            }
        }
    };
}

figures! {
    counters {
        clients_accepted,
        /// Turned away before login: a limit, or a shutdown.
        clients_refused,
        /// Logged in.
        logins,
        logins_failed,
        transactions,
        bytes_from_clients,
        bytes_to_clients,
        bytes_from_nodes,
        bytes_to_nodes,
        servers_opened,
        /// A server connection was given to a client.
        server_assignments,
        /// Statements planned and sent again on a fresh routing table, unseen by the client.
        retries,
        client_parses,
        server_parses,
        binds,
        /// Statements of which one node made the answer, of rows that all have sent.
        gathered,
        /// What those rows took.
        gathered_bytes,
        plan_cache_hits,
        plan_cache_misses,
    }
    histograms {
        /// Held by a gate.
        hold,
        /// Waited as a commit for reads over several nodes that were looking, or the other way round.
        sight,
        /// Waited for a server connection.
        wait,
        /// From the statement's bytes to its plan and shard.
        route,
        /// From the first byte sent to a node to its ReadyForQuery.
        query,
        /// From a transaction's first statement to its end.
        transaction,
    }
}

impl WorkerStats {
    pub fn statements(&self, kind: PlanKind) -> &Counter {
        &self.statements[kind as usize]
    }

    pub fn errors(&self, blame: Blame) -> &Counter {
        &self.errors[blame as usize]
    }
}

impl WorkerSums {
    pub fn statements(&self, kind: PlanKind) -> u64 {
        self.statements[kind as usize]
    }

    pub fn all_statements(&self) -> u64 {
        self.statements.iter().sum()
    }

    pub fn errors(&self, blame: Blame) -> u64 {
        self.errors[blame as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_below_its_buckets_bound_and_above_the_previous_one() {
        for us in (0..5_000u64).chain((0..27).flat_map(|b| [(1 << b) - 1, 1 << b, (1 << b) + 1])) {
            let b = bucket_of(us);
            if b < BUCKETS - 1 {
                assert!(us < upper_bound_us(b), "{us} in bucket {b}");
            }
            assert!(b == 0 || us >= upper_bound_us(b - 1), "{us} in bucket {b}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_cumulative_counts_of_two_workers() {
        let (a, b) = (Histogram::default(), Histogram::default());
        (0..99).for_each(|_| a.record_us(100));
        b.record(Duration::from_millis(50));
        let mut sum = HistogramSum::default();
        sum.add(&a);
        sum.add(&b);
        assert_eq!((sum.count(), sum.sum_us), (100, 99 * 100 + 50_000));
        assert_eq!(sum.quantile(0.5), Some(Duration::from_micros(112)));
        assert_eq!(sum.quantile(1.0), Some(Duration::from_micros(57_344)));
        assert_eq!(HistogramSum::default().quantile(0.5), None);
        let at = |us| sum.cumulative().find(|c| c.0 == us).map(|c| c.1);
        assert_eq!((at(64), at(128), at(65_536)), (Some(0), Some(99), Some(100)));
    }

    #[test]
    fn sums_keep_kinds_and_blames_apart() {
        let w = WorkerStats::default();
        w.statements(PlanKind::Refused).inc();
        w.statements(PlanKind::SingleShard).add(3);
        w.errors(Blame::Node).inc();
        let mut sums = WorkerSums::default();
        sums.add(&w);
        sums.add(&w);
        assert_eq!(sums.statements(PlanKind::Refused), 2);
        assert_eq!(sums.all_statements(), 8);
        assert_eq!((sums.errors(Blame::Node), sums.errors(Blame::Proxy)), (2, 0));
    }
}
