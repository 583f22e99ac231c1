//! What the participants of a statement on several nodes are sent.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::link::{Done, Reply};
use crate::commit::Commit;
use crate::router::plan::Plan;
use crate::router::times::{self, Times};
use crate::wire::{frame, frontend};

/// What each participant is sent.
#[derive(Debug, Clone)]
pub(super) enum Request {
    /// A text by the simple protocol, and what each of its statements does to the session.
    Text { plan: Arc<Plan>, text: Vec<u8>, controls: Option<Vec<Done>> },
    /// The transaction's end, act by act; and what the decision does to the session.
    Ending { commit: Commit, plan: Arc<Plan>, controls: Option<Vec<Done>> },
    /// Messages of the extended protocol, what answers each of them, and Sync.
    Segment { plan: Arc<Plan>, frames: Vec<u8>, replies: Vec<Reply>, controls: Option<Rc<[Done]>> },
    /// Another one for each participant in its turn.
    Each(VecDeque<Request>),
}

impl Request {
    /// With these times in place of the calls that tell them.
    #[must_use]
    pub fn in_time(self, told: &Times, named: bool) -> Self {
        match self {
            Self::Text { plan, text, controls } => {
                Self::Text { plan, text: times::put(&text, told, named), controls }
            }
            Self::Segment { plan, frames, replies, controls } => {
                let frames = parsed_in_time(&frames, told, named);
                Self::Segment { plan, frames, replies, controls }
            }
            request @ (Self::Ending { .. } | Self::Each(_)) => request,
        }
    }
}

/// The same of each Parse among messages of pgshunt's own.
fn parsed_in_time(mut frames: &[u8], told: &Times, named: bool) -> Vec<u8> {
    let mut put = Vec::with_capacity(frames.len() + 64);
    while let Ok(Some(head)) = frame::header(frames) {
        let Some((message, rest)) = frames.split_at_checked(head.len) else { break };
        match message.get(frame::HEADER..).map(frontend::parse) {
            Some(Ok(parse)) if head.tag == b'P' => {
                let text = times::put(parse.text, told, named);
                frontend::put_parse(&mut put, parse.name, &text, parse.oids);
            }
            _ => put.extend_from_slice(message),
        }
        frames = rest;
    }
    put
}

/// Parse, Bind and the like of a statement's own, for a request of the extended protocol.
pub(super) struct Segment {
    pub frames: Vec<u8>,
    pub replies: Vec<Reply>,
}

impl Segment {
    pub fn new() -> Self {
        Self { frames: Vec::new(), replies: Vec::new() }
    }

    pub fn parse(&mut self, text: &[u8], types: &[u8]) {
        frontend::put_parse(&mut self.frames, b"", text, types);
        self.replies.push(Reply::Parse);
    }

    pub fn bind(&mut self, rest: &[u8]) {
        frontend::put_bind(&mut self.frames, b"", b"", rest);
        self.replies.push(Reply::Bind);
    }

    /// `what`: `S` is the statement, `P` its portal.
    pub fn describe(&mut self, what: u8) {
        frontend::put_named(&mut self.frames, b'D', what, b"");
        self.replies.push(Reply::Describe);
    }

    pub fn close_portal(&mut self, name: &[u8]) {
        frontend::put_named(&mut self.frames, b'C', b'P', name);
        self.replies.push(Reply::Close);
    }

    pub fn execute(&mut self, limit: i32) {
        frame::put(&mut self.frames, b'E', |b| {
            b.push(0);
            b.extend_from_slice(&limit.to_be_bytes());
        });
        self.replies.push(Reply::Execute);
    }

    /// Ends it by Sync.
    pub fn request(mut self, plan: &Arc<Plan>, controls: Option<Rc<[Done]>>) -> Request {
        frontend::put_empty(&mut self.frames, b'S');
        self.replies.push(Reply::Sync);
        self.open(plan, controls)
    }

    /// Does not end it.
    pub fn open(self, plan: &Arc<Plan>, controls: Option<Rc<[Done]>>) -> Request {
        let plan = plan.clone();
        Request::Segment { plan, frames: self.frames, replies: self.replies, controls }
    }
}
