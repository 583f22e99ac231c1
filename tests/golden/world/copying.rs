//! What the shell does with COPY data.

use pgshunt::session::{Flow, Need, Onto};
use pgshunt::topology::NodeId;
use pgshunt::wire::frame;

use super::World;

impl World {
    /// The client's front message is COPY data; it is taken, or waits for something.
    pub(super) fn copy_data(&mut self, data: &[u8]) -> Option<Need> {
        if self.client().session.copies_pending() {
            let mut flow = None;
            self.with_session(|session, env, io| {
                let header = frame::Header { tag: b'd', len: frame::HEADER };
                flow = session.client(header, b"", env, io).ok();
            });
            if let Some(Flow::Wait(need)) = flow {
                return Some(need);
            }
        }
        match self.client().session.copy_data_goes() {
            Onto::Later => return Some(Need::Quiet),
            Onto::Node => self.wrote(&[], data),
            Onto::Rows => self.with_session(|session, _, io| {
                session.copy_rows(&data[frame::HEADER..], io);
            }),
            Onto::Nobody => self.say("late CopyData dropped"),
        }
        self.client().take_front();
        None
    }

    /// While rows are split, whoever has something to say is taken in hand.
    pub(super) fn turn_to_who_speaks(&mut self) {
        let client = self.client();
        if !client.session.takes_rows() {
            return;
        }
        let spoke = |n: &NodeId| client.from_nodes.get(n).is_some_and(|b| !b.is_empty());
        let found = client.session.nodes().skip(1).find(spoke);
        if let Some(node) = found {
            self.turn_to(node);
        }
    }
}
