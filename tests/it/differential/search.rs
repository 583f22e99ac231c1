//! Runs what the generator makes, and makes what differs small.

use super::generator::Generator;
use super::pair::{Outcome, Pair, Step};
use super::schema;

/// Enough to meet every kind of statement, few enough for every run of the tests.
const STATEMENTS: usize = 2_500;
const READS: usize = 1_500;
const SEED: u64 = 20_241_121;
const BATCH: usize = 20;
/// Batches after which the tables are as in the beginning.
const REFILL: usize = 8;

pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Default)]
struct Tally {
    equal: usize,
    errors: usize,
    refused: usize,
}

/// Statements of all kinds.
pub fn run(pair: &mut Pair) {
    search(pair, STATEMENTS, batch_of);
}

/// Reads of rows of several keys, with few writes between them.
pub fn run_reads(pair: &mut Pair) {
    schema::create_collated(pair);
    search(pair, READS, reads_of);
}

/// Queries whose tables meet on no key.
pub fn run_across(pair: &mut Pair) {
    schema::create_collated(pair);
    search(pair, READS, across_of);
}

/// Cursors over both kinds of reads.
pub fn run_cursors(pair: &mut Pair) {
    schema::create_collated(pair);
    search(pair, READS, |generator| {
        generator.new_session();
        (0..3).flat_map(|_| generator.cursors()).collect()
    });
}

fn search(pair: &mut Pair, usual: usize, batch_of: impl Fn(&mut Generator) -> Vec<Step>) {
    let seed = setting("PGSHUNT_DIFF_SEED", SEED);
    let statements = setting("PGSHUNT_DIFF_STATEMENTS", usual);
    let most = setting("PGSHUNT_DIFF_FAILURES", 1);
    let show = std::env::var_os("PGSHUNT_DIFF_SHOW").is_some();
    println!("PGSHUNT_DIFF_SEED={seed} PGSHUNT_DIFF_STATEMENTS={statements}");
    let mut generator = Generator::new(seed);
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let mut reasons = std::collections::BTreeMap::<String, usize>::new();
    for batch in 0..statements.div_ceil(BATCH) {
        if batch % REFILL == REFILL - 1 {
            schema::fill(pair);
        }
        let mut done = Vec::new();
        for step in batch_of(&mut generator) {
            let outcome = pair.step(&step);
            if show {
                println!("{outcome:?}: {}", step.sql);
            }
            match outcome {
                Outcome::Equal => tally.equal += 1,
                Outcome::EqualError(_) => tally.errors += 1,
                Outcome::Refused(why) => {
                    tally.refused += 1;
                    *reasons.entry(why).or_default() += 1;
                }
                Outcome::Differs(what) => {
                    let small = smallest(pair, &step);
                    failures.push(format!(
                        "{}\n  params {:?}\n  smallest: {small}\n  {what}\n  after {done:#?}",
                        step.sql, step.params
                    ));
                }
            }
            done.push(step.sql);
        }
        pair.reconnect();
        if let Some(what) = pair.state(schema::TABLES) {
            failures.push(format!("{what}\n  after {done:#?}"));
            schema::fill(pair);
        }
        if failures.len() >= most {
            break;
        }
    }
    println!("{tally:?}");
    if show {
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        reasons.iter().take(40).for_each(|(why, n)| println!("{n:6} {why}"));
    }
    assert!(
        failures.is_empty(),
        "PGSHUNT_DIFF_SEED={seed}: {} differences:\n{}",
        failures.len(),
        failures.join("\n\n")
    );
    let all = tally.equal + tally.errors + tally.refused;
    assert!(
        tally.equal * 4 > all,
        "nearly all was refused or wrong, so little was compared: {tally:?}"
    );
}

/// Statements of one session: some alone, some in a transaction that stays with one key.
fn batch_of(generator: &mut Generator) -> Vec<Step> {
    generator.new_session();
    let mut steps = Vec::new();
    while steps.len() < BATCH {
        if !generator.chance(20) {
            steps.push(generator.step(false));
            continue;
        }
        generator.fixed = Some(generator.below(12) as i64);
        steps.push(Step::new("BEGIN"));
        for n in 0..1 + generator.below(5) {
            if generator.chance(15) {
                steps.push(Step::new(format!("SAVEPOINT s{n}")));
            }
            steps.push(generator.step(true));
            if generator.chance(10) {
                steps.push(Step::new("ROLLBACK TO s0"));
            }
        }
        let end = if generator.chance(70) { "COMMIT" } else { "ROLLBACK" };
        steps.push(Step::new(end));
        generator.fixed = None;
    }
    steps
}

/// Reads of one session, some of them in a transaction that has written.
fn reads_of(generator: &mut Generator) -> Vec<Step> {
    read_by(generator, Generator::read)
}

/// The same, of tables that meet on no key.
fn across_of(generator: &mut Generator) -> Vec<Step> {
    read_by(generator, Generator::across)
}

fn read_by(generator: &mut Generator, read: impl Fn(&mut Generator) -> Step) -> Vec<Step> {
    generator.new_session();
    let mut steps = Vec::new();
    while steps.len() < BATCH {
        if !generator.chance(15) {
            steps.push(read(generator));
            continue;
        }
        steps.push(Step::new("BEGIN"));
        for _ in 0..1 + generator.below(3) {
            let (key, value) = (generator.below(12), generator.below(5));
            let sql = format!("INSERT INTO i4 (k, v, s) VALUES ({key}, {value}, 's{value}')");
            steps.push(Step::new(sql));
            steps.push(read(generator));
        }
        steps.push(Step::new(if generator.chance(50) { "COMMIT" } else { "ROLLBACK" }));
    }
    steps
}

/// The smallest text, of those found by leaving out words, that still differs. Only for what can be
/// tried again: alone, from the tables' first state.
fn smallest(pair: &mut Pair, step: &Step) -> String {
    const TRIES: usize = 150;
    let mut differs = |text: &str| {
        pair.reconnect();
        schema::fill(pair);
        let outcome = pair.step(&Step { sql: text.to_owned(), ..step.clone() });
        matches!(outcome, Outcome::Differs(_)).then_some(outcome)
    };
    if differs(&step.sql).is_none() {
        return "(only in its place)".to_owned();
    }
    let mut words: Vec<String> = step.sql.split_inclusive(' ').map(str::to_owned).collect();
    let mut tries = 0;
    let mut length = words.len() / 2;
    while length > 0 && tries < TRIES {
        let mut at = 0;
        while at + length <= words.len() && tries < TRIES {
            let mut fewer = words.clone();
            fewer.drain(at..at + length);
            tries += 1;
            if differs(&fewer.concat()).is_some() {
                words = fewer;
            } else {
                at += 1;
            }
        }
        length /= 2;
    }
    let text = words.concat();
    let what = differs(&text);
    schema::fill(pair);
    format!("{text}\n    {what:?}")
}
