//! Scripts: what is told the machine (`>`) and what it wants done, one line each.

use super::*;

fn line(effect: &Effect) -> String {
    match effect {
        Effect::Record { state, step, error, blocker } => {
            let mut s = format!("record {state}");
            if let Some(step) = step {
                s += &format!("/{}", step.name());
            }
            if let Some(e) = error {
                s += &format!(" error={e:?}");
            }
            if let Some(b) = blocker {
                s += &format!(" blocker={b:?}");
            }
            s
        }
        Effect::Pause { tried } => format!("pause {tried}"),
        Effect::Run(step) => format!("run {}", step.name()),
        Effect::Stop => "stop".into(),
    }
}

fn input(text: &str) -> Input {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "begin" => Input::Begin,
        "done" => Input::Done,
        "blocked" => Input::Blocked(rest.into()),
        "lost" => Input::Lost(rest.into()),
        "failed" => Input::Failed(rest.into()),
        "stuck" => Input::Stuck(rest.into()),
        "cancelled" => Input::Cancelled,
        "handover" => Input::HandOver,
        other => panic!("script says {other:?}"),
    }
}

/// Plays the `>` lines and checks every line between them.
fn play(mut m: Machine, script: &str) {
    let mut expected = String::new();
    let mut actual = String::new();
    for l in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        expected += &format!("{l}\n");
        if let Some(text) = l.strip_prefix("> ") {
            actual += &format!("{l}\n");
            let mut effects = Vec::new();
            m.handle(input(text), &mut effects);
            for e in &effects {
                actual += &format!("{}\n", line(e));
            }
        }
    }
    assert_eq!(actual, expected);
}

#[test]
fn a_move_from_planned_to_done() {
    play(
        Machine::new(Kind::Forward),
        "> begin
        record preparing/discard
        run discard
        > done
        record preparing/preflight
        run preflight
        > done
        record preparing/create_leaves
        run create_leaves
        > done
        record preparing/publish
        run publish
        > done
        record preparing/subscribe
        run subscribe
        > done
        record copying/copy
        run copy
        > done
        record copying/build_indexes
        run build_indexes
        > done
        record catching up/add_foreign_keys
        run add_foreign_keys
        > done
        record catching up/prepare_reverse
        run prepare_reverse
        > done
        record ready/await_ready
        run await_ready
        > done
        record cutover/cutover
        run cutover
        > done
        record switched/settle
        run settle
        > done
        record switched/drop_forward
        run drop_forward
        > done
        record switched/finish_detach
        run finish_detach
        > done
        record switched/keep_attachable
        run keep_attachable
        > done
        record switched/start_reverse
        run start_reverse
        > done
        record soaking/soak
        run soak
        > done
        record cleaning/drop_reverse
        run drop_reverse
        > done
        record cleaning/drop_retired
        run drop_retired
        > done
        record cleaning/drop_scaffold
        run drop_scaffold
        > done
        record done
        stop
        > done
        stop",
    );
}

#[test]
fn a_rollback_copies_nothing_and_soaks_not() {
    play(
        Machine::new(Kind::Rollback),
        "> begin
        record preparing/recheck
        run recheck
        > done
        record ready/await_ready
        run await_ready
        > done
        record cutover/cutover
        run cutover
        > done
        record switched/settle
        run settle
        > done
        record switched/drop_reverse
        run drop_reverse
        > done
        record switched/finish_detach
        run finish_detach
        > done
        record cleaning/drop_retired
        run drop_retired
        > done
        record cleaning/drop_scaffold
        run drop_scaffold
        > done
        record done
        stop",
    );
}

#[test]
fn a_blocked_cutover_names_the_blocker_lets_go_and_tries_again() {
    play(
        Machine::resume(Kind::Forward, State::Ready, None, Found::NoJournal, None),
        "> begin
        record ready/await_ready
        run await_ready
        > done
        record cutover/cutover
        run cutover
        > blocked client 7
        record ready/await_ready blocker=\"client 7\"
        pause 1
        run await_ready
        > blocked client 7
        record ready/await_ready blocker=\"client 7\"
        pause 2
        run await_ready
        > done
        record cutover/cutover
        run cutover
        > blocked client 7
        record ready/await_ready blocker=\"client 7\"
        pause 3
        run await_ready
        > done
        record cutover/cutover
        run cutover
        > done
        record switched/settle
        run settle",
    );
}

#[test]
fn what_fails_before_the_journal_is_undone() {
    play(
        Machine::resume(Kind::Forward, State::Copying, Some("copy"), Found::NoJournal, None),
        "> begin
        record copying/copy
        run copy
        > failed disk full
        record undoing/unfence error=\"disk full\"
        run unfence
        > lost node2 is away
        record undoing/unfence error=\"disk full\" blocker=\"node2 is away\"
        pause 1
        run unfence
        > done
        record undoing/drop_objects error=\"disk full\"
        run drop_objects
        > cancelled
        record undoing/drop_objects error=\"disk full\"
        run drop_objects
        > done
        record failed error=\"disk full\"
        stop",
    );
}

#[test]
fn what_fails_after_the_journal_is_tried_until_it_works() {
    play(
        Machine::resume(Kind::Forward, State::Switched, Some("drop_forward"), Found::Journal, None),
        "> begin
        record switched/drop_forward
        run drop_forward
        > failed permission denied
        record switched/drop_forward error=\"permission denied\"
        pause 1
        run drop_forward
        > cancelled
        record switched/drop_forward error=\"permission denied\"
        run drop_forward
        > done
        record switched/finish_detach
        run finish_detach",
    );
}

#[test]
fn a_soaking_move_hands_over_without_a_trace() {
    play(
        Machine::resume(Kind::Forward, State::Soaking, None, Found::Journal, None),
        "> begin
        record soaking/soak
        run soak
        > handover
        stop",
    );
}

#[test]
fn a_cancelled_rollback_only_lifts_its_fence() {
    play(
        Machine::resume(Kind::Rollback, State::Ready, None, Found::NoJournal, None),
        "> cancelled
        record undoing/unfence error=\"cancelled by CANCEL MOVE\"
        run unfence
        > done
        record failed error=\"cancelled by CANCEL MOVE\"
        stop",
    );
}

#[test]
fn a_crash_in_the_cutover_is_decided_by_the_journal_alone() {
    for kind in [Kind::Forward, Kind::Rollback] {
        let m = Machine::resume(kind, State::Cutover, Some("cutover"), Found::Journal, None);
        assert_eq!((m.state(), m.step()), (State::Switched, Some(Step::Settle)));
        let m = Machine::resume(kind, State::Cutover, Some("cutover"), Found::NoJournal, None);
        assert_eq!((m.state(), m.step()), (State::Ready, Some(Step::AwaitReady)));
    }
}

#[test]
fn every_recorded_place_is_resumed_where_it_was() {
    for kind in [Kind::Forward, Kind::Rollback] {
        for &(state, step) in kind.way().iter().chain(kind.way_back()) {
            if state == State::Cutover {
                continue;
            }
            let m = Machine::resume(kind, state, Some(step.name()), Found::NoJournal, None);
            assert_eq!((m.state(), m.step()), (state, Some(step)), "{kind:?}");
        }
    }
}

#[test]
fn names_lead_back_to_what_they_name() {
    for s in State::ALL {
        assert_eq!(State::from_name(s.name()), Some(s));
    }
    for &s in Step::ALL {
        assert_eq!(Step::from_name(s.name()), Some(s));
    }
}

#[test]
fn a_copy_that_is_stuck_is_begun_anew_three_times_and_then_given_up() {
    play(
        Machine::resume(Kind::Forward, State::Copying, Some("copy"), Found::NoJournal, None),
        "> begin
        record copying/copy
        run copy
        > stuck no way
        record preparing/discard blocker=\"no way; begun anew, 1 of 3 times\"
        pause 1
        run discard
        > done
        record preparing/preflight
        run preflight
        > stuck no way
        record preparing/discard blocker=\"no way; begun anew, 2 of 3 times\"
        pause 2
        run discard
        > stuck no way
        record preparing/discard blocker=\"no way; begun anew, 3 of 3 times\"
        pause 3
        run discard
        > stuck no way
        record undoing/unfence error=\"no way\"
        run unfence",
    );
}

#[test]
fn what_is_undone_after_a_crash_still_has_its_reason() {
    let why = Some(CANCELLED.to_owned());
    play(
        Machine::resume(Kind::Forward, State::Undoing, Some("drop_objects"), Found::NoJournal, why),
        "> begin
        record undoing/drop_objects error=\"cancelled by CANCEL MOVE\"
        run drop_objects
        > done
        record failed error=\"cancelled by CANCEL MOVE\"
        stop",
    );
}
