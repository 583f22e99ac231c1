//! The table the demo ends with.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::latency::{Latencies, Part};
use super::ledger::Verdict;
use super::scene::Placement;

/// Everything the demo found out.
#[derive(Debug)]
pub struct Report {
    pub statements: u64,
    pub errors: u64,
    pub messages: Vec<String>,
    pub acknowledged: u64,
    pub verdict: Verdict,
    pub latencies: Latencies,
    /// What SHOW MOVES says of each cutover: its title and the time it held the shard's traffic.
    pub held: Vec<(String, String)>,
    /// Rows by node and shard at moments worth a name.
    pub placements: Vec<(&'static str, Placement)>,
}

impl Report {
    /// Nothing lost, nothing doubled, nobody saw an error.
    pub fn is_clean(&self) -> bool {
        self.errors == 0 && self.verdict.is_clean()
    }

    pub fn text(&mut self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {name:<24}{value:>12}");
        };
        line("statements", grouped(self.statements));
        line("errors", grouped(self.errors));
        line("acknowledged writes", grouped(self.acknowledged));
        line("lost", grouped(self.verdict.lost));
        line("doubled", grouped(self.verdict.doubled));
        if self.verdict.unknown > 0 {
            line("written by nobody", grouped(self.verdict.unknown));
        }
        line("longest hold seen", millis(self.latencies.summary(Part::Moving).longest));
        for (title, held) in &self.held {
            line(&format!("  held by {title}"), held.clone());
        }

        let _ = writeln!(
            out,
            "\n  {:<16}{:>12}{:>12}{:>12}{:>12}",
            "", "statements", "p50", "p99", "longest"
        );
        for part in Part::ALL {
            let s = self.latencies.summary(part);
            let _ = writeln!(
                out,
                "  {:<16}{:>12}{:>12}{:>12}{:>12}",
                part.name(),
                grouped(s.statements as u64),
                millis(s.p50),
                millis(s.p99),
                millis(s.longest)
            );
        }
        out += &self.rows();
        for message in self.messages.iter().chain(&self.verdict.findings) {
            let _ = writeln!(out, "  ! {message}");
        }
        out
    }

    /// Rows per node (lines) and shard (columns), moment by moment.
    fn rows(&self) -> String {
        let cells = self.placements.iter().flat_map(|(_, p)| p.keys());
        let shards: BTreeSet<&String> = cells.clone().map(|(_, shard)| shard).collect();
        let nodes: BTreeSet<&String> = cells.map(|(node, _)| node).collect();
        let mut out = format!("\n  {:<24}", "rows");
        for shard in &shards {
            let _ = write!(out, "{shard:>12}");
        }
        out.push('\n');
        for (moment, placement) in &self.placements {
            for (i, node) in nodes.iter().enumerate() {
                let name = if i == 0 { moment } else { "" };
                let _ = write!(out, "  {name:<16}{node:<8}");
                for shard in &shards {
                    let key = ((*node).clone(), (*shard).clone());
                    let rows =
                        placement.get(&key).map_or("-".into(), |n| grouped(n.unsigned_abs()));
                    let _ = write!(out, "{rows:>12}");
                }
                out.push('\n');
            }
        }
        out
    }
}

fn millis(time: Option<Duration>) -> String {
    time.map_or("-".into(), |t| format!("{:.2} ms", t.as_secs_f64() * 1e3))
}

/// 1234567 as "1 234 567".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(errors: u64) -> Report {
        let mut latencies = Latencies::default();
        latencies.record(Part::Before, Duration::from_micros(400));
        latencies.record(Part::Moving, Duration::from_micros(6_500));
        let at = |node: &str| ((node.to_owned(), "shard 1".to_owned()), 25_000);
        Report {
            statements: 1_234_567,
            errors,
            messages: Vec::new(),
            acknowledged: 999,
            verdict: Verdict::default(),
            latencies,
            held: vec![("MOVE SHARD 1".into(), "5.1 ms".into())],
            placements: vec![
                ("before", Placement::from([at("node1")])),
                ("moved", Placement::from([at("node3")])),
            ],
        }
    }

    #[test]
    fn the_table_shows_what_was_found() {
        let text = report(0).text();
        let line = |name: &str| {
            let found = text.lines().find(|l| l.trim_start().starts_with(name));
            found.unwrap_or_else(|| panic!("no line {name} in\n{text}")).to_owned()
        };
        assert!(line("statements").ends_with("1 234 567"));
        assert!(line("longest hold seen").ends_with("6.50 ms"));
        assert!(line("while moving").contains("6.50 ms"));
        assert!(line("after").trim_end().ends_with('-'), "no statement, no figure");
        assert!(line("before          node1").ends_with("25 000"));
        assert!(line("moved           node1").ends_with('-'));
        assert!(line("node3").ends_with('-'), "before the move node3 has nothing\n{text}");
    }

    #[test]
    fn an_error_is_enough_to_fail() {
        assert!(report(0).is_clean());
        assert!(!report(1).is_clean());
    }
}
