//! How long a client may do nothing. PostgreSQL times its sessions by these parameters; here an idle one
//! has no server process that would, so pgshunt does. While the session holds a server connection, that
//! one's process does it.
//!
//! What holds at login is asked of the server, and so is what a statement has set (`check`): it reads
//! units, the role's defaults and its configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Session;
use crate::wire::backend::{Report, Status};

/// The parameters, in the order of [`Limits::read`].
pub const PARAMETERS: [&str; 3] =
    ["idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"];

/// Zero: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits([Duration; 3]);

impl Limits {
    /// Asks for their values, as one row.
    pub const SQL: &str = "SELECT pg_catalog.current_setting('idle_session_timeout', true), \
        pg_catalog.current_setting('idle_in_transaction_session_timeout', true), \
        pg_catalog.current_setting('transaction_timeout', true)";

    /// The values of that row; what a server does not know is no limit.
    pub fn read(row: &[Option<&[u8]>]) -> Self {
        let mut limits = Self::default();
        for (limit, value) in limits.0.iter_mut().zip(row) {
            *limit = value.map_or(Duration::ZERO, duration);
        }
        limits
    }
}

/// A time as current_setting() shows it: the largest unit that fits.
fn duration(text: &[u8]) -> Duration {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let number = std::str::from_utf8(number).ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let unit = match unit {
        b"s" => Duration::from_secs(1),
        b"min" => Duration::from_secs(60),
        b"h" => Duration::from_secs(3600),
        b"d" => Duration::from_secs(24 * 3600),
        _ => Duration::from_millis(1),
    };
    unit.saturating_mul(number)
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Patience {
    /// What RESET leads to.
    base: Limits,
    now: Limits,
}

impl Patience {
    pub(super) fn reset(&mut self) {
        self.now = self.base;
    }

    /// These values hold; `all`: and no others but those of the login.
    pub(super) fn learn(&mut self, found: &[(String, String)], all: bool) {
        if all {
            self.reset();
        }
        for (name, value) in found {
            if let Some(at) = PARAMETERS.iter().position(|p| p == name) {
                self.now.0[at] = duration(value.as_bytes());
            }
        }
    }
}

/// What ends a session that does nothing any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Idle(Duration),
    InTransaction { idle: Duration, whole: Duration },
}

impl Session {
    pub fn may_idle(&mut self, limits: Limits) {
        self.patience = Patience { base: limits, now: limits };
    }

    /// What limits the client while it sends nothing; `None`: nothing does, or somebody else times it.
    pub fn limit(&self) -> Option<Limit> {
        let [idle, in_transaction, whole] = self.patience.now.0;
        let rests = self.link.is_none() && self.pending.is_empty() && !self.skipping;
        match self.status {
            _ if !rests => None,
            Status::Idle => (!idle.is_zero()).then_some(Limit::Idle(idle)),
            Status::Transaction | Status::Failed => (!in_transaction.is_zero() || !whole.is_zero())
                .then_some(Limit::InTransaction { idle: in_transaction, whole }),
        }
    }
}

impl Limit {
    /// How much is left, after it has idled for so long in a transaction as old as that; and the end.
    pub fn left(self, idled: Duration, transaction: Duration) -> (Duration, Report) {
        let end = |code, what: &str| {
            Report::fatal(code, format!("terminating connection due to {what} timeout"))
        };
        let of = |limit: Duration, past| match limit.is_zero() {
            true => Duration::MAX,
            false => limit.saturating_sub(past),
        };
        match self {
            Self::Idle(limit) => (of(limit, idled), end("57P05", "idle-session")),
            Self::InTransaction { idle, whole } => {
                let (idle, whole) = (of(idle, idled), of(whole, transaction));
                if whole < idle {
                    (whole, end("25P04", "transaction"))
                } else {
                    (idle, end("25P03", "idle-in-transaction"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn times_are_read_as_the_server_shows_them() {
        let row = [Some(&b"300ms"[..]), Some(b"5min"), None];
        let [idle, in_transaction, whole] = Limits::read(&row).0;
        assert_eq!((idle, in_transaction), (SECOND * 3 / 10, SECOND * 300));
        assert_eq!(whole, Duration::ZERO);
        for (text, seconds) in [("0", 0), ("2s", 2), ("1h", 3600), ("24d", 24 * 24 * 3600)] {
            assert_eq!(duration(text.as_bytes()).as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn the_limit_that_is_reached_first_ends_the_session() {
        let code = |limit: Limit, idled, transaction| {
            let (left, report) = limit.left(idled, transaction);
            (left, report.sqlstate.into_owned())
        };
        assert_eq!(code(Limit::Idle(3 * SECOND), SECOND, SECOND), (2 * SECOND, "57P05".into()));
        let both = Limit::InTransaction { idle: 5 * SECOND, whole: 9 * SECOND };
        assert_eq!(code(both, SECOND, SECOND), (4 * SECOND, "25P03".into()));
        assert_eq!(code(both, SECOND, 7 * SECOND), (2 * SECOND, "25P04".into()));
        let whole = Limit::InTransaction { idle: Duration::ZERO, whole: SECOND };
        assert_eq!(code(whole, 7 * SECOND, 7 * SECOND), (Duration::ZERO, "25P04".into()));
    }

    #[test]
    fn what_is_set_holds_until_it_is_reset() {
        let base = Limits([SECOND, Duration::ZERO, Duration::ZERO]);
        let mut patience = Patience { base, now: base };
        let set = [("idle_session_timeout".to_owned(), "5s".to_owned())];
        patience.learn(&set, false);
        assert_eq!(patience.now.0[0], 5 * SECOND);
        patience.learn(&[("work_mem".into(), "4MB".into())], false);
        assert_eq!(patience.now.0[0], 5 * SECOND);
        patience.learn(&[], true);
        assert_eq!(patience.now, base);
    }
}
