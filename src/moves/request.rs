//! What the console may ask of a move, and when: one table, without IO.
//!
//! [`super::mover`] reads the move's row under a lock, asks [`judge`], and acts only if the answer is
//! yes, in the same transaction. A refused request has changed nothing.

use super::machine::State;
use crate::topology::MoveId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// CANCEL MOVE: undo a move that has not switched.
    Cancel,
    /// FINISH MOVE: end the soaking, and with it the way back.
    Finish,
    /// ROLLBACK MOVE: take a move that soaks back, by a move of its own.
    Rollback,
}

impl Request {
    /// What the request's move must be, as in "there is no move that ...".
    pub fn wants(self) -> &'static str {
        match self {
            Self::Cancel => "can be cancelled",
            Self::Finish | Self::Rollback => "soaks",
        }
    }

    /// As in "move 3 is done and cannot be ...".
    pub fn participle(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::Finish => "finished",
            Self::Rollback => "rolled back",
        }
    }
}

/// All that the answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    /// CANCEL MOVE or FINISH MOVE has been accepted before.
    pub end_asked: bool,
    /// The rollback of this move that is under way.
    pub rollback: Option<MoveId>,
    /// Another move that is changing the colocation group, this move's rollback left out.
    pub busy: Option<MoveId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    WrongState,
    BeingRolledBack(MoveId),
    BeingFinished,
    Busy(MoveId),
}

/// Whether a move that stands like this takes the request. A request that was accepted before is
/// accepted again.
pub fn judge(request: Request, at: Standing) -> Result<(), Refusal> {
    use Request::{Cancel, Finish, Rollback};
    match (at.state, request) {
        (State::Planned | State::Preparing | State::Copying | State::CatchingUp, Cancel)
        | (State::Ready | State::Cutover, Cancel) => Ok(()),
        (State::Soaking, Finish) => match at.rollback {
            Some(by) => Err(Refusal::BeingRolledBack(by)),
            None => Ok(()),
        },
        (State::Soaking, Rollback) => match (at.rollback, at.busy) {
            (Some(by), _) => Err(Refusal::BeingRolledBack(by)),
            (None, _) if at.end_asked => Err(Refusal::BeingFinished),
            (None, Some(other)) => Err(Refusal::Busy(other)),
            (None, None) => Ok(()),
        },
        (
            State::Planned | State::Preparing | State::Copying | State::CatchingUp,
            Finish | Rollback,
        )
        | (State::Ready | State::Cutover, Finish | Rollback)
        | (State::Soaking, Cancel)
        | (State::Switched | State::Cleaning | State::Done | State::Undoing | State::Failed, _) => {
            Err(Refusal::WrongState)
        }
    }
}

/// Whether the request is about moves in this state at all: a request that names no move is about the
/// newest such one.
pub fn is_about(request: Request, state: State) -> bool {
    match request {
        Request::Cancel => state.can_be_undone(),
        Request::Finish | Request::Rollback => state == State::Soaking,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [Request; 3] = [Request::Cancel, Request::Finish, Request::Rollback];

    fn at(state: State) -> Standing {
        Standing { state, end_asked: false, rollback: None, busy: None }
    }

    /// One line per state: CANCEL, FINISH, ROLLBACK; `+` is accepted.
    const TABLE: &str = "
        planned      + - -
        preparing    + - -
        copying      + - -
        catching up  + - -
        ready        + - -
        cutover      + - -
        switched     - - -
        soaking      - + +
        cleaning     - - -
        done         - - -
        undoing      - - -
        failed       - - -";

    #[test]
    fn each_request_has_its_states_and_is_refused_in_all_others() {
        let mut seen = 0;
        for line in TABLE.trim().lines() {
            let (name, marks) = line.trim().split_at(13);
            let state = State::from_name(name.trim()).unwrap_or_else(|| panic!("{name}"));
            for (request, mark) in REQUESTS.into_iter().zip(marks.split_whitespace()) {
                let answer = judge(request, at(state));
                assert_eq!(answer.is_ok(), mark == "+", "{request:?} of a move that is {name}");
                assert_eq!(is_about(request, state), mark == "+", "{request:?}, {name}");
                if mark == "-" {
                    assert_eq!(answer, Err(Refusal::WrongState));
                }
                seen += 1;
            }
        }
        assert_eq!(seen, State::ALL.len() * REQUESTS.len());
    }

    #[test]
    fn a_move_that_is_being_rolled_back_takes_nothing_more() {
        let by = MoveId(9);
        for request in [Request::Finish, Request::Rollback] {
            let at = Standing { rollback: Some(by), ..at(State::Soaking) };
            assert_eq!(judge(request, at), Err(Refusal::BeingRolledBack(by)));
        }
    }

    #[test]
    fn a_finished_soaking_has_no_way_back() {
        let asked = Standing { end_asked: true, ..at(State::Soaking) };
        assert_eq!(judge(Request::Rollback, asked), Err(Refusal::BeingFinished));
        assert_eq!(judge(Request::Finish, asked), Ok(()), "it may be asked twice");
    }

    #[test]
    fn a_rollback_waits_its_turn_in_the_group_and_finishing_may_be_asked_for_at_any_time() {
        let busy = Standing { busy: Some(MoveId(4)), ..at(State::Soaking) };
        assert_eq!(judge(Request::Rollback, busy), Err(Refusal::Busy(MoveId(4))));
        assert_eq!(judge(Request::Finish, busy), Ok(()));
    }
}
