//! How much a move slows the writers of its shard when one apply worker cannot follow them: a controller
//! without IO.
//!
//! The writers are held for a while and run for a while, by turns. How long they are held doubles from
//! level to level until the lag falls, and stays there until the target has caught up. When
//! even the last level does not help the move is given up, so a move ends whatever the writers do.

use std::time::{Duration, Instant};

/// How long the writers run between two holds.
pub const RUN: Duration = Duration::from_millis(50);
/// The first hold.
const FIRST: Duration = Duration::from_millis(25);
/// How long the lag may fail to fall by a twentieth before the next level.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may fail to fall on the last level before the move is given up.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Hold for this long, let run for [`RUN`], and so on; zero: do not hold at all.
    Hold(Duration),
    /// Nothing helps.
    GiveUp,
}

#[derive(Debug)]
pub struct Throttle {
    hold: Duration,
    longest: Duration,
    /// The lag at the last time it had fallen by a twentieth, and when that was.
    best: u64,
    since: Instant,
}

impl Throttle {
    /// No hold will be longer than `longest`.
    pub fn new(now: Instant, longest: Duration) -> Self {
        Self { hold: Duration::ZERO, longest: longest.max(FIRST), best: u64::MAX, since: now }
    }

    /// To be told the lag (bytes) every now and then.
    pub fn advise(&mut self, now: Instant, lag: u64) -> Advice {
        if lag < self.best / 20 * 19 {
            self.best = lag;
            self.since = now;
        }
        let stuck = now.duration_since(self.since);
        let patience = if self.hold == self.longest { LAST_PATIENCE } else { PATIENCE };
        if stuck > patience {
            if self.hold == self.longest {
                return Advice::GiveUp;
            }
            self.hold = (self.hold * 2).clamp(FIRST, self.longest);
            self.since = now;
            // What has come since the last level is to fall again, too.
            self.best = lag;
        }
        Advice::Hold(self.hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writers that make `writes` bytes a second while they run, and a worker that applies `applies`.
    /// How long it took, and the longest hold; `None`: it was given up.
    fn plays(writes: f64, applies: f64) -> (Option<Duration>, Duration, Duration) {
        let (start, step) = (Instant::now(), Duration::from_millis(100));
        let mut throttle = Throttle::new(start, Duration::from_secs(1));
        let (mut lag, mut time, mut longest) = (50e6, Duration::ZERO, Duration::ZERO);
        loop {
            assert!(time < Duration::from_secs(600), "it has no end");
            let hold = match throttle.advise(start + time, lag as u64) {
                Advice::GiveUp => return (None, longest, time),
                Advice::Hold(hold) => hold,
            };
            longest = longest.max(hold);
            let runs = RUN.as_secs_f64() / (RUN + hold).as_secs_f64();
            lag = (lag + (writes * runs - applies) * step.as_secs_f64()).max(0.0);
            time += step;
            if lag < 32e3 {
                return (Some(time), longest, time);
            }
        }
    }

    #[test]
    fn nobody_is_held_while_the_target_gains() {
        let (caught_up, longest, _) = plays(5e6, 30e6);
        assert!(caught_up.is_some());
        assert_eq!(longest, Duration::ZERO);
    }

    #[test]
    fn writers_are_held_more_and_more_until_the_lag_falls() {
        for times in [1.2, 2.0, 4.0, 8.0] {
            let (caught_up, longest, took) = plays(30e6 * times, 30e6);
            assert!(caught_up.is_some(), "{times} times as fast: given up after {took:?}");
            assert!(longest > Duration::ZERO && longest <= Duration::from_secs(1));
        }
        let (_, gentle, _) = plays(30e6 * 1.2, 30e6);
        let (_, hard, _) = plays(30e6 * 8.0, 30e6);
        assert!(gentle < hard, "no more than needed: {gentle:?}, {hard:?}");
    }

    #[test]
    fn what_nothing_helps_against_is_given_up_in_time() {
        let (caught_up, _, took) = plays(3e9, 30e6);
        assert_eq!(caught_up, None);
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
}
