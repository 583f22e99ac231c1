//! How far a read of several nodes has come to see all of them at one instant ([`super::sight`]).

use std::collections::VecDeque;

use super::request::Request;
use crate::sight::Look;
use crate::wire::{frame, frontend};

/// Where a statement on several nodes stands, as to the instant that it sees.
#[derive(Debug, Default)]
pub(super) enum Sight {
    /// Each node has its own.
    #[default]
    Own,
    Binding(Box<Binding>),
    /// All have bound at one instant.
    Bound,
    /// One could not bind: they are sent Sync.
    Failed,
}

#[derive(Debug)]
pub(super) struct Binding {
    /// While it is open.
    pub look: Option<Look>,
    /// How many looks have been in vain.
    pub tries: u32,
    /// The client has had the answers to this already.
    pub again: bool,
    /// Bind alone, and what follows once all have bound.
    pub bind: Request,
    pub rest: Request,
}

/// A segment up to its Execute, its Bind alone, and what follows. `Err`: it is none that can be cut.
pub(super) fn cut(request: Request) -> Result<(Request, Request, Request), Request> {
    if let Request::Each(all) = &request {
        // One for each node.
        let cuts: Option<Vec<_>> = all.iter().cloned().map(|one| cut(one).ok()).collect();
        let Some(cuts) = cuts else { return Err(request) };
        let (mut first, mut bind, mut rest) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        for (f, b, r) in cuts {
            first.push_back(f);
            bind.push_back(b);
            rest.push_back(r);
        }
        return Ok((Request::Each(first), Request::Each(bind), Request::Each(rest)));
    }
    let Request::Segment { plan, frames, mut replies, controls } = request else {
        return Err(request);
    };
    let (mut at, mut count, mut bind) = (0, 0, None);
    while let Some(Ok(Some(h))) = frames.get(at..).map(frame::header) {
        match h.tag {
            b'E' => break,
            b'B' => bind = frames.get(at..at + h.len).map(|f| (f.to_vec(), count)),
            _ => {}
        }
        (at, count) = (at + h.len, count + 1);
    }
    let Some((mut bind, nth)) = bind.filter(|_| at < frames.len() && count < replies.len()) else {
        return Err(Request::Segment { plan, frames, replies, controls });
    };
    let (first, rest) = frames.split_at(at);
    let (mut first, rest) = (first.to_vec(), rest.to_vec());
    frontend::put_empty(&mut first, b'H');
    frontend::put_empty(&mut bind, b'H');
    let behind = replies.split_off(count);
    let bound = vec![replies[nth].clone()];
    let part =
        |frames, replies| Request::Segment { plan: plan.clone(), frames, replies, controls: None };
    let (first, bind) = (part(first, replies), part(bind, bound));
    Ok((first, bind, Request::Segment { plan, frames: rest, replies: behind, controls }))
}
