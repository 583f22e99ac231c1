//! What a client keeps by name, its prepared statements and its portals, and what that costs.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::{Env, Session};
use crate::router::plan::{Control, Plan};
use crate::wire::backend::Report;

/// What a name costs beside its bytes and those of what bears it.
const EACH: usize = 512;

/// The bytes that a thing keeps.
pub(super) trait Costs {
    fn bytes(&self) -> usize;
}

/// Things by the names that the client has given them.
#[derive(Debug)]
pub(super) struct Names<T> {
    all: HashMap<Vec<u8>, (u64, T)>,
    /// How many there were before; tells the age of each.
    given: u64,
    bytes: usize,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { all: HashMap::new(), given: 0, bytes: 0 }
    }
}

impl<T: Costs> Names<T> {
    pub fn get(&self, name: &[u8]) -> Option<&T> {
        self.all.get(name).map(|(_, thing)| thing)
    }

    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        self.all.get_mut(name).map(|(_, thing)| thing)
    }

    pub fn get_key_value(&self, name: &[u8]) -> Option<(&[u8], &T)> {
        self.all.get_key_value(name).map(|(name, (_, thing))| (name.as_slice(), thing))
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.all.contains_key(name)
    }

    /// Gives what bore the name before.
    pub fn insert(&mut self, name: &[u8], thing: T) -> Option<T> {
        self.given += 1;
        self.bytes += EACH + name.len() + thing.bytes();
        match self.all.entry(name.to_vec()) {
            Entry::Occupied(mut there) => {
                let (_, before) = there.insert((self.given, thing));
                self.bytes -= EACH + name.len() + before.bytes();
                Some(before)
            }
            Entry::Vacant(free) => {
                free.insert((self.given, thing));
                None
            }
        }
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<T> {
        let (_, thing) = self.all.remove(name)?;
        self.bytes -= EACH + name.len() + thing.bytes();
        Some(thing)
    }

    pub fn clear(&mut self) {
        self.all.clear();
        self.bytes = 0;
    }

    /// One has a name that is not empty.
    pub fn has_named(&self) -> bool {
        self.all.keys().any(|name| !name.is_empty())
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.values_mut().map(|(_, thing)| thing)
    }

    /// The oldest first.
    pub fn by_age(&self) -> Vec<(&[u8], &T)> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_unstable_by_key(|(_, (age, _))| *age);
        all.into_iter().map(|(name, (_, thing))| (name.as_slice(), thing)).collect()
    }
}

impl Session {
    /// Why the session cannot keep so many bytes more, if so.
    pub(super) fn is_full(&self, more: usize, env: &Env<'_>) -> Option<Report> {
        let kept = self.statements.bytes
            + self.portals.bytes
            + self.settings.bytes()
            + self.channels.bytes()
            + self.cursors.bytes();
        (kept + more > env.max_session).then(|| {
            Report::error("54000", "the session has too much to remember")
                .detail(format!(
                    "It keeps {kept} bytes of prepared statements, portals, parameters and \
                     channels; limits.max_session allows {}.",
                    env.max_session
                ))
                .hint("Deallocate or reset what is not needed, or raise limits.max_session.")
        })
    }

    /// Why the text, with values of so many bytes, cannot be carried out, if so: it would have the
    /// session keep too much.
    pub(super) fn fills(&self, plan: &Plan, bytes: usize, env: &Env<'_>) -> Option<Report> {
        let keeps = |c: &Control| match c {
            Control::Set(_) | Control::SetEach(_) | Control::Listen { .. } => true,
            Control::Leaves(traces) => !traces.parameters.is_empty() || traces.declares.is_some(),
            _ => false,
        };
        let keeps = plan.statements.iter().any(|s| keeps(&s.control));
        if keeps { self.is_full(bytes, env) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Costs for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    #[test]
    fn bytes_are_those_of_what_is_there_and_age_is_that_of_the_last_to_bear_the_name() {
        let mut names = Names::default();
        assert_eq!(names.insert(b"b", 10_usize), None);
        assert_eq!(names.insert(b"a", 20), None);
        assert_eq!(names.bytes, 2 * (EACH + 1) + 30);
        assert_eq!(names.by_age(), [(&b"b"[..], &10), (b"a", &20)]);
        assert_eq!(names.insert(b"b", 5), Some(10));
        assert_eq!(names.bytes, 2 * (EACH + 1) + 25);
        assert_eq!(names.by_age(), [(&b"a"[..], &20), (b"b", &5)]);
        assert_eq!((names.remove(b"a"), names.remove(b"a")), (Some(20), None));
        assert_eq!(names.bytes, EACH + 6);
        names.clear();
        assert_eq!((names.bytes, names.len()), (0, 0));
    }
}
