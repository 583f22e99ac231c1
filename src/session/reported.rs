//! ParameterStatus: what a server connection has reported, and what a client was told of it.
//!
//! A client keeps books of what it is told: psql reads literals by it, drivers read dates by it. The
//! connections it goes through have their own pasts, so what they report is not passed on as it
//! comes. Before each ReadyForQuery the client is told where its connection differs from what it
//! was told last.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::wire::backend;

/// Names and values, in the order of their first report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(String, String)>", into = "Vec<(String, String)>")]
pub struct Reported {
    list: Arc<Vec<(String, String)>>,
    /// The same for the same names and values in any order.
    print: u64,
}

/// What is the server's own, not the session's: it is told at login, and not that another node has
/// another minor version.
fn is_servers_own(name: &str) -> bool {
    matches!(name, "server_version" | "server_encoding" | "in_hot_standby" | "integer_datetimes")
}

fn print(name: &str, value: &str) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    if is_servers_own(name) { 0 } else { SEED.hash_one((name, value)) }
}

impl Reported {
    pub fn list(&self) -> &[(String, String)] {
        &self.list
    }

    /// Notes a ParameterStatus body; one that is malformed tells nothing.
    pub fn note(&mut self, body: &[u8]) {
        let mut parts = body.split(|&b| b == 0);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return;
        };
        self.set(name, value);
    }

    /// Sums up what follows the session.
    pub fn print(&self) -> u64 {
        self.print
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        if self.get(name) == Some(value) {
            return;
        }
        let list = Arc::make_mut(&mut self.list);
        match list.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => {
                self.print ^= print(name, old);
                value.clone_into(old);
            }
            None => list.push((name.to_owned(), value.to_owned())),
        }
        self.print ^= print(name, value);
    }

    /// Writes the client a ParameterStatus for each difference to what it was `told`.
    pub fn tell(&self, told: &mut Self, out: &mut Vec<u8>) {
        if self.print == told.print {
            return;
        }
        for (name, value) in self.list.iter().filter(|(n, _)| !is_servers_own(n)) {
            if told.get(name) != Some(value) {
                backend::put_parameter_status(out, name, value);
            }
        }
        *told = self.clone();
    }
}

impl From<Reported> for Vec<(String, String)> {
    fn from(reported: Reported) -> Self {
        Arc::unwrap_or_clone(reported.list)
    }
}

impl From<Vec<(String, String)>> for Reported {
    fn from(list: Vec<(String, String)>) -> Self {
        let print = list.iter().fold(0, |all, (n, v)| all ^ print(n, v));
        Self { list: Arc::new(list), print }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_differs() {
        let mut conn = Reported::default();
        for body in [&b"a\x001\0"[..], b"b\x002\0", b"server_version\x0015.18\0", b"malformed"] {
            conn.note(body);
        }
        let status = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let list = vec![status("b", "2"), status("a", "1"), status("server_version", "15.19")];
        let (mut told, mut out) = (Reported::from(list), Vec::new());
        conn.tell(&mut told, &mut out);
        assert!(out.is_empty(), "the same, in another order and from another server");
        conn.note(b"a\x003\0");
        conn.tell(&mut told, &mut out);
        let mut wanted = Vec::new();
        backend::put_parameter_status(&mut wanted, "a", "3");
        assert_eq!(out, wanted);
        out.clear();
        conn.tell(&mut told, &mut out);
        assert!(out.is_empty(), "once");
    }
}
