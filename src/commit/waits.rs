//! Who waits for whom, over all nodes. No node sees a circle that leads through several.

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::NodeId;

/// Who waits, or is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiter {
    /// A client's transaction on several nodes, by its id in SHOW CLIENTS.
    Client(u64),
    /// A server process that belongs to no such one.
    Process(NodeId, i32),
}

/// A circle among those of whom each waits for others, if there is one: its members, in order.
pub fn circle(waits: &BTreeMap<Waiter, BTreeSet<Waiter>>) -> Option<BTreeSet<Waiter>> {
    let mut done = BTreeSet::new();
    for &start in waits.keys() {
        let mut path = vec![start];
        // What is still to be looked at of each on the path.
        let mut left = vec![waits.get(&start).cloned().unwrap_or_default()];
        while let Some(others) = left.last_mut() {
            match others.pop_first() {
                Some(next) => {
                    if let Some(at) = path.iter().position(|w| *w == next) {
                        return Some(path.split_off(at).into_iter().collect());
                    }
                    if !done.contains(&next) {
                        path.push(next);
                        left.push(waits.get(&next).cloned().unwrap_or_default());
                    }
                }
                None => {
                    left.pop();
                    done.extend(path.pop());
                }
            }
        }
    }
    None
}

/// Whose statement is cancelled: the client that came last.
pub fn victim(circle: &BTreeSet<Waiter>) -> Option<u64> {
    let clients = circle.iter().filter_map(|w| match w {
        Waiter::Client(id) => Some(*id),
        Waiter::Process(..) => None,
    });
    clients.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(edges: &[(Waiter, Waiter)]) -> BTreeMap<Waiter, BTreeSet<Waiter>> {
        let mut waits = BTreeMap::<_, BTreeSet<_>>::new();
        for &(a, b) in edges {
            waits.entry(a).or_default().insert(b);
        }
        waits
    }

    #[test]
    fn a_circle_is_found_wherever_it_begins() {
        use Waiter::{Client, Process};
        let local = Process(NodeId(1), 7);
        assert_eq!(circle(&waits(&[(Client(1), Client(2)), (Client(3), Client(2))])), None);
        let through = waits(&[
            (Client(9), Client(1)),
            (Client(1), local),
            (local, Client(2)),
            (Client(2), Client(1)),
        ]);
        let found = circle(&through).unwrap();
        assert_eq!(found, BTreeSet::from([Client(1), local, Client(2)]), "9 only waits for it");
        assert_eq!(victim(&found), Some(2));
    }
}
