//! What the open transaction has set for itself since BEGIN, to be said again to a node that takes part
//! later: its savepoints, and its parameters in their order.
//!
//! What is over is left out: a savepoint that was released, and all that was set behind one that the
//! transaction has gone back to.

use serde::{Deserialize, Serialize};

use crate::router::plan::Control;

/// More steps, or bytes, are not kept: then the transaction stays on the nodes it has.
const MOST: usize = 64;
const MOST_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    /// The savepoint that it makes, if it makes one.
    savepoint: Option<String>,
    sql: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Prelude {
    steps: Vec<Step>,
    /// Something was set that is not among the steps; until the transaction's end.
    lost: bool,
}

/// Said again on another node it has the same effect, on the open transaction alone.
pub(super) fn is_repeatable(control: &Control) -> bool {
    matches!(
        control,
        Control::Local
            | Control::LocalPath
            | Control::Set(_)
            | Control::SetEach(_)
            | Control::Savepoint(_)
            | Control::Release(_)
            | Control::RollbackTo(_)
    )
}

impl Prelude {
    /// A statement of the transaction has completed.
    pub fn note(&mut self, control: &Control, sql: &str) {
        match control {
            Control::Release(name) => {
                if let Some(at) = self.savepoint(name) {
                    let behind = self.steps.split_off(at);
                    self.steps.extend(behind.into_iter().filter(|s| s.savepoint.is_none()));
                }
            }
            Control::RollbackTo(name) => {
                if let Some(at) = self.savepoint(name) {
                    self.steps.truncate(at + 1);
                }
            }
            Control::Savepoint(name) => self.push(Some(name.clone()), sql),
            Control::Local | Control::LocalPath | Control::Set(_) | Control::SetEach(_) => {
                self.push(None, sql);
            }
            // It brings back what the startup packet said, which another node cannot be told alike.
            Control::Reset(_) | Control::ResetLocal(_) | Control::ResetAll => self.lost = true,
            _ => {}
        }
    }

    fn push(&mut self, savepoint: Option<String>, sql: &str) {
        let bytes: usize = self.steps.iter().map(|s| s.sql.len()).sum();
        if self.steps.len() < MOST && bytes + sql.len() <= MOST_BYTES {
            self.steps.push(Step { savepoint, sql: sql.to_owned() });
        } else {
            self.lost = true;
        }
    }

    fn savepoint(&self, name: &str) -> Option<usize> {
        self.steps.iter().rposition(|s| s.savepoint.as_deref() == Some(name))
    }

    /// Something was set that cannot be said again.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// The transaction has ended.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.lost = false;
    }

    pub fn steps(&self) -> impl ExactSizeIterator<Item = &str> {
        self.steps.iter().map(|s| s.sql.as_str())
    }

    /// A node that takes part later cannot be brought to where the others are.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The transaction can go back to a savepoint after an error.
    pub fn has_savepoint(&self) -> bool {
        self.lost || self.steps.iter().any(|s| s.savepoint.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_not_said_again() {
        let mut p = Prelude::default();
        let set = |p: &mut Prelude, sql: &str| p.note(&Control::Local, sql);
        p.note(&Control::Savepoint("a".into()), "SAVEPOINT a");
        set(&mut p, "SET LOCAL x = 1");
        p.note(&Control::Savepoint("b".into()), "SAVEPOINT b");
        set(&mut p, "SET LOCAL x = 2");
        p.note(&Control::RollbackTo("b".into()), "ROLLBACK TO b");
        let steps = |p: &Prelude| p.steps().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(steps(&p), ["SAVEPOINT a", "SET LOCAL x = 1", "SAVEPOINT b"]);
        p.note(&Control::Release("a".into()), "RELEASE a");
        assert_eq!(steps(&p), ["SET LOCAL x = 1"], "b was within a");
        assert!(!p.has_savepoint());
        for n in 0..1000 {
            p.note(&Control::Savepoint(n.to_string()), "SAVEPOINT n");
            p.note(&Control::Release(n.to_string()), "RELEASE n");
        }
        assert!(!p.is_lost());
        p.note(&Control::ResetAll, "RESET ALL");
        assert!(p.is_lost());
        p.clear();
        assert!(!p.is_lost() && steps(&p).is_empty());
    }

    #[test]
    fn too_much_is_given_up() {
        let mut p = Prelude::default();
        (0..=MOST).for_each(|_| p.note(&Control::Local, "SET LOCAL x = 1"));
        assert!(p.is_lost());
    }
}
