//! Transactions that write rows of several nodes, beside one PostgreSQL with the same tables.
//!
//! A batch is what one session does: blocks with savepoints, errors in the middle and reads of what was just
//! written, statements alone, and texts of several. Each is answered alike on both sides, or refused; behind the
//! batch the tables have the same rows, a reference table on every node. What differs is made small by leaving out
//! what comes before it. `PGSHUNT_DIFF_SEED` and `PGSHUNT_DIFF_STATEMENTS` let it search elsewhere and longer.

mod changes;
mod tables;
mod writer;

use std::collections::BTreeMap;

use super::pair::{Outcome, Pair, Step};
use super::search::setting;
use writer::Writer;

/// Enough for every kind of statement, few enough for every run of the tests.
const STATEMENTS: usize = 2_400;
const SEED: u64 = 20_261_201;
/// What one session does.
const BATCH: usize = 24;
/// Runs that are spent on making a failure small.
const TRIES: usize = 60;

#[derive(Debug, Default)]
struct Tally {
    equal: usize,
    errors: BTreeMap<String, usize>,
    refused: BTreeMap<String, usize>,
}

impl Tally {
    fn print(&self) {
        let sum = |of: &BTreeMap<String, usize>| of.values().sum::<usize>();
        let (errors, refused) = (sum(&self.errors), sum(&self.refused));
        let all = (self.equal + errors + refused).max(1);
        println!(
            "{} equal, {errors} equal errors, {refused} refused ({} %)",
            self.equal,
            refused * 100 / all
        );
        for (title, of) in [("errors", &self.errors), ("refused", &self.refused)] {
            println!("{title}:");
            let mut causes: Vec<_> = of.iter().collect();
            causes.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
            causes.iter().for_each(|(why, n)| println!("{n:6} {why}"));
        }
    }
}

pub fn run(pair: &mut Pair) {
    tables::create(pair);
    let seed = setting("PGSHUNT_DIFF_SEED", SEED);
    let statements = setting("PGSHUNT_DIFF_STATEMENTS", STATEMENTS);
    let most = setting("PGSHUNT_DIFF_FAILURES", 1);
    println!("PGSHUNT_DIFF_SEED={seed} PGSHUNT_DIFF_STATEMENTS={statements}");
    let mut writer = Writer::new(seed);
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    for _ in 0..statements.div_ceil(BATCH) {
        let steps = writer.session(BATCH);
        tables::fill(pair);
        if let Some((at, what)) = differs(pair, &steps, Some(&mut tally)) {
            let small = smaller(pair, steps[..=at.min(steps.len() - 1)].to_vec());
            let texts: Vec<_> = small.iter().map(show).collect();
            failures.push(format!("{what}\n  smallest:\n    {}", texts.join("\n    ")));
        }
        if failures.len() >= most {
            break;
        }
    }
    tally.print();
    assert!(
        failures.is_empty(),
        "PGSHUNT_DIFF_SEED={seed}: {} differences:\n{}",
        failures.len(),
        failures.join("\n\n")
    );
    let refused: usize = tally.refused.values().sum();
    assert!(refused * 5 < tally.equal, "so much is refused that little was compared");
}

fn show(step: &Step) -> String {
    match &step.params {
        None => step.sql.clone(),
        Some(params) => format!("{} {:?} {:?}", step.sql, step.statement, params),
    }
}

/// Where both sides part in what a session does, and how; behind the last step: by the tables' rows.
fn differs(
    pair: &mut Pair,
    steps: &[Step],
    mut tally: Option<&mut Tally>,
) -> Option<(usize, String)> {
    pair.reconnect();
    let mut found = None;
    for (at, step) in steps.iter().enumerate() {
        let outcome = pair.step(step);
        if std::env::var_os("PGSHUNT_DIFF_SHOW").is_some() {
            println!("{outcome:?}: {}", show(step));
        }
        let tally = tally.as_deref_mut();
        match outcome {
            Outcome::Equal => tally.into_iter().for_each(|t| t.equal += 1),
            Outcome::EqualError(code) => {
                tally.into_iter().for_each(|t| *t.errors.entry(code.clone()).or_default() += 1);
            }
            Outcome::Refused(why) => {
                tally.into_iter().for_each(|t| *t.refused.entry(why.clone()).or_default() += 1);
            }
            Outcome::Differs(what) => {
                found = Some((at, format!("{}\n  {what}", show(step))));
                break;
            }
        }
    }
    pair.reconnect();
    // Servers undo the open transactions of sessions that have gone, in their own time.
    tables::settle(pair);
    found.or_else(|| tables::differ(pair).map(|what| (steps.len(), what)))
}

/// The session without what can be left out of it, so that both sides still part.
fn smaller(pair: &mut Pair, mut steps: Vec<Step>) -> Vec<Step> {
    let mut tries = 0;
    let mut length = (steps.len() / 2).max(1);
    while tries < TRIES {
        let mut at = 0;
        while at + length <= steps.len() && steps.len() > 1 && tries < TRIES {
            let mut fewer = steps.clone();
            fewer.drain(at..at + length);
            tries += 1;
            tables::fill(pair);
            match differs(pair, &fewer, None) {
                Some(_) => steps = fewer,
                None => at += length,
            }
        }
        if length == 1 {
            break;
        }
        length /= 2;
    }
    tables::fill(pair);
    steps
}
