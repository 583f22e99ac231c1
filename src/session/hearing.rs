//! What a participant of a statement on several nodes says, and what becomes the client's of it.

use std::borrow::Cow;

use super::gathering::Last;
use super::request::Request;
use super::spread::{Held, How, Spread};
use super::told::Told;
use super::{Io, Session};
use crate::commit::Act;
use crate::wire::backend::{self, Report};
use crate::wire::frame;

impl Session {
    /// A message of the participant that is heard, but for errors and ReadyForQuery.
    pub(super) fn hears_part(&mut self, tag: u8, body: &[u8], io: &mut Io<'_>) {
        let Some(spread) = &mut self.spread else { return };
        if matches!(spread.request, Request::Ending { .. }) {
            spread.hears_ending(tag, body);
            return;
        }
        if spread.failed {
            return;
        }
        let again = spread.binds_again();
        if let How::Gathered(gathering) = &mut spread.how {
            let of_statement = tag == b't' || std::mem::take(&mut spread.of_statement);
            spread.of_statement = tag == b't';
            let first = spread.heard == 0 && !again;
            match gathering.hears((tag, body), of_statement, first, io.client) {
                Ok(answered) => spread.answered += answered,
                Err(report) => {
                    self.tell(&report, io);
                    self.fails();
                }
            }
            return;
        }
        let first = spread.is_first() && !spread.silent && !spread.binds_again();
        let asked = first && !spread.plain;
        let mut shown = asked && matches!(tag, b'1' | b'2' | b'3' | b'n');
        let mut body_shown = Cow::Borrowed(body);
        let outcome = match (tag, &mut spread.how) {
            (b't', _) => {
                spread.of_statement = true;
                if spread.heard == 0 {
                    frame::put(io.client, tag, |b| b.extend_from_slice(body));
                }
                return;
            }
            (b'1', _) if spread.hide_parse => return,
            (b'T', How::Merged(answer)) => {
                let of_statement = std::mem::take(&mut spread.of_statement);
                shown = first && (of_statement || !spread.hide_describe);
                answer.described(of_statement, body).map(|told| body_shown = told)
            }
            (b'T', How::Same(_)) => {
                shown = first && !spread.hide_describe;
                Ok(())
            }
            (b'D', How::Merged(answer)) => match answer.writes(body, io.client) {
                Ok(true) => Ok(()),
                Ok(false) => answer.row(body),
                Err(report) => Err(report),
            },
            (b'D', How::Timed(_)) => {
                spread.is_told(body);
                return;
            }
            (b'D', How::Same(_)) => {
                let told = spread.making.as_mut().map(|m| &mut m.told);
                told.into_iter().for_each(|told| told.extend(Told::of_row(body)));
                Ok(())
            }
            (b'C', How::Merged(answer)) => answer.completed(body),
            (b'C', How::Same(tag)) => {
                *tag = body.to_vec();
                Ok(())
            }
            _ => Ok(()),
        };
        match outcome {
            Ok(()) if shown => {
                spread.answered += 1;
                frame::put(io.client, tag, |b| b.extend_from_slice(&body_shown));
            }
            Ok(()) => {}
            Err(report) => {
                self.tell(&report, io);
                self.fails();
            }
        }
    }

    /// All have sent the rows of which one of them makes the answer: it is asked for it.
    pub(super) fn next_round(&mut self) {
        let over = self.spread.as_mut().filter(|s| !s.failed && s.is_over());
        let Some(spread) = over else { return };
        if matches!(spread.how, How::Timed(_)) {
            self.clock.time = spread.goes_on_in_time();
            spread.looks_in_time();
            return;
        }
        if let Some(held) = spread.held.take() {
            let Held { request, how, splitting } = *held;
            (spread.request, spread.how, spread.splitting) = (request, how, splitting);
            (spread.said, spread.heard, spread.first_alone) = (0, 0, false);
            return;
        }
        let How::Gathered(gathering) = &spread.how else { return };
        self.counters.gathered += 1;
        self.counters.gathered_bytes += gathering.moved() as u64;
        self.moved = gathering.moved_much();
        let Some(last) = gathering.ends_at(&spread.nodes).copied() else { return };
        let joins = gathering.first_only();
        match gathering.last() {
            Ok((request, made)) => {
                let link = self.link.iter_mut().chain(&mut self.resting).find(|l| l.node == last);
                if let Some(link) = link.filter(|_| spread.in_block) {
                    // What a local table calls is not known.
                    link.effect = link.effect.max(gathering.plan().effect);
                }
                spread.request = request;
                spread.how = match made {
                    Last::Rows(answer) => How::Merged(answer),
                    Last::Done => How::Same(Vec::new()),
                };
                spread.earlier = std::mem::replace(&mut spread.nodes, vec![last]);
                (spread.said, spread.heard) = (0, 0);
                spread.silent = true;
                spread.without_loops = joins;
            }
            Err(report) => spread.how = How::Refused(report),
        }
    }
}

impl Session {
    /// An error about a text that pgshunt has made of the client's: a place in it is none of the client's.
    /// What makes sense as the client has written it, and makes none over gathered rows (`parses`), is not
    /// supported: GROUP BY a primary key, say.
    pub(super) fn of_gathered(&self, parses: bool, body: &[u8]) -> Option<Result<Vec<u8>, Report>> {
        let spread = self.spread.as_deref()?;
        let made = match &spread.how {
            How::Gathered(gathering) => gathering.is_described(),
            _ => spread.silent,
        };
        if !made {
            return None;
        }
        let field = |code| backend::report_field(body, code).unwrap_or_default();
        let sqlstate = field(b'C');
        if parses && spread.silent && sqlstate.starts_with(b"42") && sqlstate != b"42501" {
            let what = "this statement is not supported over rows of several nodes";
            let why = String::from_utf8_lossy(field(b'M')).into_owned();
            return Some(Err(Report::error("0A000", what).detail(why).hint(
                "Add an equality on the distribution column, or name all columns in GROUP BY.",
            )));
        }
        let place = backend::report_field_at(body, b'P')?;
        Some(Ok([body.get(..place.start - 1)?, body.get(place.end + 1..)?].concat()))
    }
}

impl Spread {
    /// The same, of a transaction's end.
    fn hears_ending(&mut self, tag: u8, body: &[u8]) {
        let Request::Ending { commit, .. } = &mut self.request else { return };
        match (tag, commit.next()) {
            (b'D', Some((_, Act::Ask))) => {
                if let Some(xid) = as_number(body) {
                    commit.knows(xid);
                }
            }
            (b'C', Some((_, Act::Decide))) => {
                if let How::Same(tag) = &mut self.how
                    && tag.is_empty()
                {
                    *tag = b"COMMIT\0".to_vec();
                }
            }
            _ => {}
        }
    }
}

/// The value of a row, as a number.
fn as_number(body: &[u8]) -> Option<u64> {
    let row = backend::data_row(body)?;
    std::str::from_utf8(row.first().copied()??).ok()?.parse().ok()
}
