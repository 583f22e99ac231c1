//! How long statements took, by the part of the demo they began in.

use std::time::Duration;

/// The parts of the demo that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Before,
    /// While a move, or its way back, is under way.
    Moving,
    After,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::Before, Part::Moving, Part::After];

    pub fn name(self) -> &'static str {
        match self {
            Part::Before => "before",
            Part::Moving => "while moving",
            Part::After => "after",
        }
    }
}

/// Every statement's time, exactly: a demo has some hundred thousand of them.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    micros: [Vec<u32>; 3],
}

impl Latencies {
    pub fn record(&mut self, part: Part, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.of_mut(part).push(micros);
    }

    pub fn merge(&mut self, other: &Self) {
        for part in Part::ALL {
            self.of_mut(part).extend_from_slice(other.of(part));
        }
    }

    /// Sorts once; the figures come from what it returns.
    pub fn summary(&mut self, part: Part) -> Summary {
        let micros = self.of_mut(part);
        micros.sort_unstable();
        let at = |rank: f64| {
            let index = ((micros.len() as f64 * rank).ceil() as usize).saturating_sub(1);
            micros.get(index).map(|m| Duration::from_micros(u64::from(*m)))
        };
        Summary { statements: micros.len(), p50: at(0.50), p99: at(0.99), longest: at(1.0) }
    }

    fn of(&self, part: Part) -> &Vec<u32> {
        let [before, moving, after] = &self.micros;
        match part {
            Part::Before => before,
            Part::Moving => moving,
            Part::After => after,
        }
    }

    fn of_mut(&mut self, part: Part) -> &mut Vec<u32> {
        let [before, moving, after] = &mut self.micros;
        match part {
            Part::Before => before,
            Part::Moving => moving,
            Part::After => after,
        }
    }
}

/// None where there was no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub statements: usize,
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
    pub longest: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut latencies = Latencies::default();
        for ms in 1..=100 {
            latencies.record(Part::Moving, Duration::from_millis(ms));
        }
        let summary = latencies.summary(Part::Moving);
        assert_eq!(summary.statements, 100);
        assert_eq!(summary.p50, Some(Duration::from_millis(50)));
        assert_eq!(summary.p99, Some(Duration::from_millis(99)));
        assert_eq!(summary.longest, Some(Duration::from_millis(100)));
        assert_eq!(latencies.summary(Part::Before).p50, None);
    }
}
