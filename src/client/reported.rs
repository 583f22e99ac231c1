//! What clients are told at login of the server's parameters, remembered.
//!
//! The answer is learned from a server connection with the client's startup parameters in force.
//! The next client that brings the same is told the same, without a connection: logins must not
//! stand in line behind statements when a pool is full. After [`FRESH`] it is asked for anew as soon
//! as a connection is free, so what a reload on the node changes is told a little later than by
//! PostgreSQL itself. What a change of the role changes is told at once (`client::roles`).

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::session::Limits;

/// Names and values, in the order the server reported them.
pub type Status = Vec<(String, String)>;

/// What a login is told by the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Messages about the startup parameters, as they came.
    pub notices: Vec<u8>,
    pub status: Status,
    /// How long it may idle.
    pub limits: Limits,
}

const FRESH: Duration = Duration::from_secs(30);
/// Nothing older is told, even if that means to wait for a connection.
const OLDEST: Duration = Duration::from_secs(600);
/// Combinations kept; there are as many as clients have startup parameters.
const MOST: usize = 1024;

const APPLICATION_NAME: &str = "application_name";

/// Who is told, and what it brought. The application's name is left out where the server would
/// repeat it as it is: some put a process id into it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    database: Arc<str>,
    user: Arc<str>,
    params: Vec<(String, String)>,
    named: bool,
}

/// The application's name, if the server is sure to report it unchanged.
fn plain_name(params: &[(String, String)]) -> Option<&str> {
    let mut names = params.iter().filter(|(n, _)| n.eq_ignore_ascii_case(APPLICATION_NAME));
    let (name, None) = (names.next()?.1.as_str(), names.next()) else { return None };
    let plain = name.len() < 64 && name.bytes().all(|b| (b' '..=b'~').contains(&b));
    plain.then_some(name)
}

impl Asked {
    pub fn new(database: &Arc<str>, user: &Arc<str>, params: &[(String, String)]) -> Self {
        let named = plain_name(params).is_some();
        let kept =
            |(n, _): &&(String, String)| !(named && n.eq_ignore_ascii_case(APPLICATION_NAME));
        Self {
            database: database.clone(),
            user: user.clone(),
            params: params.iter().filter(kept).cloned().collect(),
            named,
        }
    }
}

/// What is remembered for a client.
pub enum Known {
    Fresh(Told),
    /// To be told only if asking anew would mean to wait.
    Old(Told),
    No,
}

#[derive(Debug, Default)]
pub struct Reported {
    known: Mutex<HashMap<Asked, (Instant, Told)>>,
}

impl Reported {
    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, (Instant, Told)>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn look_up(&self, now: Instant, asked: &Asked, params: &[(String, String)]) -> Known {
        let known = self.lock();
        let Some((at, told)) = known.get(asked) else { return Known::No };
        let age = now.saturating_duration_since(*at);
        let mut told = told.clone();
        if let Some(name) = plain_name(params)
            && let Some((_, value)) = told.status.iter_mut().find(|(n, _)| n == APPLICATION_NAME)
        {
            name.clone_into(value);
        }
        match age {
            age if age < FRESH => Known::Fresh(told),
            age if age < OLDEST => Known::Old(told),
            _ => Known::No,
        }
    }

    pub fn remember(&self, now: Instant, asked: Asked, told: &Told) {
        let mut known = self.lock();
        if known.len() >= MOST && !known.contains_key(&asked) {
            known.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(asked, (now, told.clone()));
    }

    /// Forgets what clients of this role are told.
    pub fn forget(&self, user: &str) {
        self.lock().retain(|asked, _| &*asked.user != user);
    }

    /// Forgets everything: the nodes may be others now.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
    }

    #[test]
    fn the_same_is_told_again_with_the_own_name_in_it() {
        let (database, user): (Arc<str>, Arc<str>) = ("d".into(), "u".into());
        let (reported, now) = (Reported::default(), Instant::now());
        let ask = |params: &[(String, String)], at| {
            reported.look_up(at, &Asked::new(&database, &user, params), params)
        };
        let one = pairs(&[("TimeZone", "UTC"), ("Application_Name", "one")]);
        let two = pairs(&[("TimeZone", "UTC"), ("application_name", "two")]);
        assert!(matches!(ask(&one, now), Known::No));
        let status = pairs(&[("application_name", "one"), ("TimeZone", "UTC")]);
        let told = Told { status, notices: b"N".to_vec(), ..Told::default() };
        reported.remember(now, Asked::new(&database, &user, &one), &told);
        let Known::Fresh(told) = ask(&two, now) else { panic!("not remembered") };
        assert_eq!(told.notices, b"N");
        assert_eq!(told.status, pairs(&[("application_name", "two"), ("TimeZone", "UTC")]));
        for other in [
            pairs(&[("TimeZone", "Asia/Tokyo"), ("application_name", "one")]),
            // The role may have a name of its own for it.
            pairs(&[("TimeZone", "UTC")]),
            // The server would replace or cut these.
            pairs(&[("TimeZone", "UTC"), ("application_name", "tschüß")]),
            pairs(&[("TimeZone", "UTC"), ("application_name", &"x".repeat(64))]),
        ] {
            assert!(matches!(ask(&other, now), Known::No), "{other:?}");
        }
        assert!(matches!(ask(&one, now + FRESH), Known::Old(_)));
        assert!(matches!(ask(&one, now + OLDEST), Known::No));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let (reported, now) = (Reported::default(), Instant::now());
        for n in 0..2 * MOST {
            let params = pairs(&[("TimeZone", &n.to_string())]);
            reported.remember(now, Asked::new(&"d".into(), &"u".into(), &params), &Told::default());
        }
        assert!(reported.lock().len() <= MOST);
    }
}
