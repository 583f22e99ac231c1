//! FunctionCall: a function by its number, outside of any statement. libpq and JDBC reach large
//! objects this way.

use super::link::{Expect, Fate, Reply};
use super::{Env, Flow, Io, Need, Session};
use crate::router::place::Place;
use crate::router::plan::{Effect, Traces};

impl Session {
    pub(super) fn function_call(
        &mut self,
        body: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Flow {
        if let Some(need) = self.commits_alone(env) {
            return Flow::Wait(need);
        }
        let place = Place::Node { node: env.routes.home().id, touches: Vec::new() };
        match self.ensure(&place, Effect::Unknown, env, io) {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => {
                self.refuse_query(report, Fate::Refuse, io);
                return Flow::Done;
            }
        }
        self.begin_on_link(io);
        if self.is_spoiling() {
            return Flow::Wait(Need::Quiet);
        }
        self.movable = false;
        crate::wire::frame::put(io.server, b'F', |b| b.extend_from_slice(body));
        if let Some(link) = &mut self.link {
            link.push(Expect::forward(Reply::Query));
        }
        if !is_of_large_objects(body) {
            self.may_have_drawn();
            self.leaves(&Traces { code: true, ..Traces::default() });
        }
        Flow::Done
    }
}

/// The functions that libpq and JDBC call this way: `lo_open` and the like (`pg_proc.dat`).
fn is_of_large_objects(body: &[u8]) -> bool {
    let oid = body.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
    matches!(oid, Some(715 | 764 | 767 | 952..=958 | 964 | 1004 | 3170..=3172 | 3457..=3460))
}
