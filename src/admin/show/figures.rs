//! What was done: totals since the start, and averages over the last period.
//!
//! Counts and bytes are averaged per second, times per transaction and per statement, as PgBouncer
//! does; its wait_time is per second too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::ConsoleContext;
use super::super::columns;
use super::super::command::Show;
use super::super::reply::Value;
use super::{Row, row};
use crate::telemetry::{Blame, HistogramSum, PlanKind, WorkerSums};

const FIGURES: usize = 12;

fn total(s: &WorkerSums) -> [u64; FIGURES] {
    [
        s.server_assignments,
        s.transactions,
        s.all_statements(),
        s.bytes_from_clients,
        s.bytes_to_clients,
        s.transaction.sum_us,
        s.query.sum_us,
        s.wait.sum_us,
        s.client_parses,
        s.server_parses,
        s.binds,
        s.logins,
    ]
}

fn average(took: Duration, older: &WorkerSums, newer: &WorkerSums) -> [u64; FIGURES] {
    let (older, newer) = (total(older), total(newer));
    let mut done = [0; FIGURES];
    for ((done, old), new) in done.iter_mut().zip(older).zip(newer) {
        *done = new.saturating_sub(old);
    }
    let [_, transactions, statements, ..] = done;
    let per_second = |n: u64| (n as f64 / took.as_secs_f64().max(1e-6)) as u64;
    let mut average = done.map(per_second);
    let [_, _, _, _, _, transaction_time, statement_time, ..] = &mut average;
    let [_, _, _, _, _, in_transactions, in_statements, ..] = done;
    *transaction_time = in_transactions / transactions.max(1);
    *statement_time = in_statements / statements.max(1);
    average
}

fn averages_of(ctx: &ConsoleContext, database: &str) -> [u64; FIGURES] {
    let (took, older, newer) = ctx.registry.last_period(database);
    average(took, &older, &newer)
}

/// Every database that has been used, the cluster's and the console in any case.
fn sums(ctx: &ConsoleContext) -> BTreeMap<String, WorkerSums> {
    let mut sums = ctx.registry.sums_by_database();
    sums.entry(ctx.config.load().cluster.database.clone()).or_default();
    sums.entry(super::super::ADMIN.to_owned()).or_default();
    sums
}

pub fn stats(ctx: &ConsoleContext) -> Vec<Row> {
    let row = |(database, s): (String, WorkerSums)| {
        let mut row = row![database.as_str()];
        row.extend(total(&s).map(Value::from));
        row.extend(averages_of(ctx, &database).map(Value::from));
        row.extend(PlanKind::ALL.map(|k| Value::from(s.statements(k))));
        row.extend(Blame::ALL.map(|b| Value::from(s.errors(b))));
        let quantile =
            |h: &HistogramSum, share| Value::from(h.quantile(share).map(|d| d.as_micros()));
        row.extend([
            Value::from(s.retries),
            Value::from(s.hold.count()),
            quantile(&s.hold, 0.5),
            quantile(&s.hold, 0.99),
            quantile(&s.wait, 0.99),
            quantile(&s.route, 0.99),
            quantile(&s.query, 0.5),
            quantile(&s.query, 0.99),
            Value::from(s.all_statements()),
        ]);
        row
    };
    sums(ctx).into_iter().map(row).collect()
}

pub fn stats_totals(ctx: &ConsoleContext) -> Vec<Row> {
    let row = |(database, s): (String, WorkerSums)| {
        let mut row = row![database];
        row.extend(total(&s).map(Value::from));
        row
    };
    sums(ctx).into_iter().map(row).collect()
}

pub fn stats_averages(ctx: &ConsoleContext) -> Vec<Row> {
    let row = |database: String| {
        let average = averages_of(ctx, &database);
        let mut row = row![database];
        row.extend(average.map(Value::from));
        row
    };
    sums(ctx).into_keys().map(row).collect()
}

/// All databases together: the names are those of SHOW STATS.
pub fn totals(ctx: &ConsoleContext) -> Vec<Row> {
    let mut sum = [0; 2 * FIGURES];
    for (database, s) in sums(ctx) {
        let of_this = total(&s).into_iter().chain(averages_of(ctx, &database));
        sum.iter_mut().zip(of_this).for_each(|(sum, n)| *sum += n);
    }
    let names = columns::of(Show::Stats).iter().skip(1).map(|c| c.name);
    names.zip(sum).map(|(name, n)| row![name, n]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_total_has_its_average() {
        let stats = columns::of(Show::Stats);
        let count = total(&WorkerSums::default()).len();
        assert_eq!(columns::of(Show::StatsTotals).len(), count + 1);
        assert_eq!(columns::of(Show::StatsAverages).len(), count + 1);
        for (total, average) in stats[1..=count].iter().zip(&stats[count + 1..]) {
            let total = total.name.strip_prefix("total_").unwrap();
            let average = average.name.strip_prefix("avg_").unwrap();
            assert!(
                total == average || (total, average) == ("received", "recv"),
                "{total} {average}"
            );
        }
    }

    #[test]
    fn averages_are_of_the_period() {
        let at = |transactions, us| {
            let mut s = WorkerSums::default();
            (s.transactions, s.binds) = (transactions, transactions * 10);
            s.transaction.sum_us = us;
            s
        };
        let average = average(Duration::from_secs(10), &at(100, 5_000), &at(120, 9_000));
        assert_eq!((average[1], average[5], average[10]), (2, 200, 20));
        assert_eq!(super::average(Duration::ZERO, &at(1, 1), &at(1, 1))[1], 0);
    }
}
