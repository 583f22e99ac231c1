//! Statements that concern several nodes: whether they may start now, and what each node is sent.
//!
//! By the simple protocol that is a text, by the extended one a batch ([`super::batch`]).

use std::sync::Arc;

use super::block::{OwnBlock, aborted};
use super::gathering::{Asked, Gathering};
use super::link::Done;
use super::participants::concerns_all;
use super::request::Request;
use super::splitting::{Protocol, Splitting};
use super::spread::{How, Spread};
use super::timing;
use super::{Ddl, Env, Flow, Io, Need, Session, rows};
use crate::commit::Commit;
use crate::merge::{Answer, Gather, Window};
use crate::router::place::{Given, NoValues, Place, Values};
use crate::router::plan::{
    Control, Count, Ddl as Way, Effect, Kind, Merge, OnEach, Plan, Reference,
};
use crate::topology::{GroupId, NodeId};
use crate::wire::backend::{Report, Status};
use crate::wire::frontend::Bind;

impl Session {
    /// Carries out a query that concerns several nodes, or DDL; `None`: it is neither.
    pub(super) fn query_all(
        &mut self,
        plan: &Arc<Plan>,
        place: &Place,
        text: &[u8],
        controls: &Option<Vec<Done>>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        let outcome = match (place, &plan.kind) {
            (Place::Every { group, nodes, merge }, _) => {
                self.forget_portal(b"");
                let spread = match Gather::of(merge) {
                    Some(gather) => {
                        gathered(gather, plan, Asked::of_query(text, controls), nodes.clone())
                    }
                    None => text_spread(plan, nodes, merge, text, controls),
                };
                spread.and_then(|mut spread| {
                    spread.splitting = Splitting::of(plan, (*group, nodes), Protocol::Simple, env);
                    if let Some(table) = merge.reference() {
                        refuses_moments(table, text, None)?;
                        spread.holds_first(table);
                    }
                    self.spread_over(&groups_of(*group, merge), spread, env, io)
                })
            }
            (_, Kind::Ddl(Way::Maintain(maintain))) => {
                self.maintain(maintain, plan, |_| {}, env, io)
            }
            (_, Kind::Ddl(_)) => match self.within_block(plan) {
                Some(each) => self.ddl_over_all(each, plan, |_| {}, env, io),
                None => self.ddl_allowed(plan).map(|need| {
                    let ddl = || Need::Ddl(Box::new(ddl(text, Vec::new(), Vec::new())));
                    Some(need.unwrap_or_else(ddl))
                }),
            },
            _ => return None,
        };
        Some(match outcome {
            Ok(need) => {
                if matches!(need, None | Some(Need::Ddl(_))) {
                    self.count(plan);
                }
                need.map_or(Flow::Done, Flow::Wait)
            }
            Err(report) => self.refuse_text(plan, report, io),
        })
    }

    /// Carries out on all participants what concerns all of them; `None`: there is but one, or the
    /// text is none of the sort.
    pub(super) fn control_all(
        &mut self,
        plan: &Arc<Plan>,
        text: &[u8],
        controls: &Option<Vec<Done>>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        if !self.concerns_several(plan) {
            return None;
        }
        let ends = plan.statements.first().is_some_and(|s| s.control.ends_block());
        if self.status == Status::Failed && !ends {
            // It fails where the transaction has failed.
            return None;
        }
        let outcome = match (self.refuses_over_nodes(plan), plan.single()) {
            (Some(report), _) => Err(report),
            (None, Some(control)) => {
                let spread = self.control_spread(control, plan, text, controls);
                self.spread_over(&[], spread, env, io)
            }
            (None, None) => return None,
        };
        Some(match outcome {
            Ok(None) => {
                self.count(plan);
                Flow::Done
            }
            Ok(Some(need)) => Flow::Wait(need),
            Err(report) => self.refuse_text(plan, report, io),
        })
    }

    /// The text says something to the transaction itself, which has several participants.
    pub(super) fn concerns_several(&self, plan: &Plan) -> bool {
        self.may_be_several()
            && self.participants().len() > 1
            && plan.statements.iter().any(|s| is_concerned(s) || self.sets_options(&s.control))
    }

    /// BEGIN within a block begins nothing, and its options count.
    pub(super) fn sets_options(&self, control: &Control) -> bool {
        *control == Control::Begin && self.status == Status::Transaction
    }

    /// Why a text that concerns all participants of the transaction cannot be carried out on several,
    /// if so.
    pub(super) fn refuses_over_nodes(&self, plan: &Plan) -> Option<Report> {
        let own = self.own_block != OwnBlock::No && self.script.is_none();
        let own = plan.single().filter(|_| own);
        if let Some(report) = own.and_then(refused_in_own_block) {
            return Some(report);
        }
        if !self.concerns_several(plan) {
            return None;
        }
        match plan.single() {
            Some(Control::Commit) => self.refuses_to_fill(),
            Some(Control::PrepareTransaction) => {
                Some(not_over_nodes("PREPARE TRANSACTION is").hint("Use COMMIT."))
            }
            // What is prepared cannot be followed by another transaction at once.
            Some(Control::CommitAndChain) if self.status != Status::Failed => Some(
                not_over_nodes("AND CHAIN is").hint("End the transaction and begin another one."),
            ),
            _ => None,
        }
    }

    /// BEGIN with an isolation level behind a read of several nodes in one segment: it would come too late, and no
    /// node knows that.
    pub(super) fn begins_late(&self, plan: &Plan, text: &[u8]) -> Option<Report> {
        let begins = self.status == Status::Idle && plan.single() == Some(&Control::Begin);
        let level = || text.windows(9).any(|w| w.eq_ignore_ascii_case(b"isolation"));
        (begins && self.retry.has_gone_over() && level()).then(|| {
            Report::error(
                "0A000",
                "BEGIN with an isolation level cannot follow a statement on several nodes without Sync",
            )
            .hint("Send Sync before it.")
        })
    }

    /// A statement that each participant carries out alike: the transaction's end, a savepoint, SET.
    pub(super) fn control_spread(
        &self,
        control: &Control,
        plan: &Arc<Plan>,
        text: &[u8],
        controls: &Option<Vec<Done>>,
    ) -> Spread {
        let nodes = self.participants();
        let (plan, controls) = (plan.clone(), controls.clone());
        let failed = self.status == Status::Failed;
        let request = match control {
            Control::Commit if !failed => {
                Request::Ending { commit: Commit::new(self.parts()), plan, controls }
            }
            // Those that have not failed would commit.
            Control::Commit => Request::Text { plan, text: b"ROLLBACK".to_vec(), controls },
            Control::CommitAndChain => {
                Request::Text { plan, text: b"ROLLBACK AND CHAIN".to_vec(), controls }
            }
            _ => Request::Text { plan, text: text.to_vec(), controls },
        };
        Spread::new(nodes, request, How::Same(Vec::new()))
    }

    /// Begins with DDL on all nodes within the open transaction. `answers`: adds what else the client reads.
    pub(super) fn ddl_over_all(
        &mut self,
        each: &OnEach,
        plan: &Arc<Plan>,
        answers: impl FnOnce(&mut Spread),
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        let (group, mut spread) = match self.ddl_spread(each, plan, env) {
            Ok(spread) => spread,
            Err(first) => return first.map(Some),
        };
        answers(&mut spread);
        self.spread_over(group.as_slice(), spread, env, io)
    }

    /// Begins with a statement on several nodes when all of them are there.
    pub(super) fn spread_over(
        &mut self,
        groups: &[GroupId],
        mut spread: Spread,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if !groups.is_empty() && self.status == Status::Failed {
            // Unless what is under way ends the transaction.
            return match self.is_waiting_for_link() {
                true => Ok(Some(Need::Quiet)),
                false => Err(aborted()),
            };
        }
        if !groups.is_empty()
            && let Some(need) = self.take_snapshot(env, io)?
        {
            return Ok(Some(need));
        }
        if let Some(report) = self.refuses_snapshot().filter(|_| spread.writes()) {
            return Err(report);
        }
        if let How::Gathered(gathering) = &mut spread.how {
            let lower = self.settings.collect_limit().unwrap_or(usize::MAX);
            gathering.is_bounded_by(env.collect_limit.min(lower));
        }
        let nodes: Vec<NodeId> = spread.participants().collect();
        if let Some(need) = self.ensure_all(groups, &nodes, env, io)? {
            return Ok(Some(need));
        }
        if let Some(need) = self.look_first(&mut spread, env)? {
            return Ok(Some(need));
        }
        self.begin_spread(spread, io);
        Ok(None)
    }
}

/// A statement that all nodes carry out a part of, and one of them the rest.
pub(super) fn gathered(
    gather: Gather,
    plan: &Arc<Plan>,
    asked: Asked,
    nodes: Vec<NodeId>,
) -> Result<Spread, Report> {
    let (times, _) = timing::found(plan, &asked.text)?;
    let gathering = Gathering::new(gather, plan.clone(), asked);
    let request = gathering.parts(nodes.len())?;
    let mut spread = Spread::new(nodes, request, How::Gathered(gathering.into()));
    spread.times = times;
    Ok(spread)
}

/// The colocation groups that a statement on every node of one reads.
pub(super) fn groups_of(group: GroupId, merge: &Merge) -> Vec<GroupId> {
    std::iter::once(group).chain(merge.others().iter().copied()).collect()
}

/// Which rows of those that the nodes have the client gets.
pub(super) fn window(merge: &Merge, values: &dyn Values) -> Result<Window, Report> {
    let Merge::Ordered(ordered) = merge else { return Ok(Window::default()) };
    let number = |count: &Option<Count>| match count {
        None => Ok(None),
        Some(Count::Number(n)) => Ok(Some(*n)),
        Some(Count::Param(index)) => match values.param(*index) {
            None | Some(Given::Null) => Ok(None),
            Some(given) => given.integer().map(Some).ok_or_else(|| {
                Report::error("0A000", "cannot read a parameter of LIMIT or OFFSET")
                    .hint("Send it as an integer.")
            }),
        },
    };
    let negative = |n: i64| u64::try_from(n).is_err();
    let (skip, most) = (number(&ordered.offset)?, number(&ordered.limit)?);
    if skip.is_some_and(negative) {
        return Err(Report::error("2201X", "OFFSET must not be negative"));
    }
    if most.is_some_and(negative) {
        return Err(Report::error("2201W", "LIMIT must not be negative"));
    }
    let count = |n: i64| u64::try_from(n).unwrap_or_default();
    Ok(Window { skip: skip.map_or(0, count), most: most.map(count), ties: ordered.ties })
}

pub(super) fn ddl(text: &[u8], before: Vec<u8>, behind: Vec<u8>) -> Ddl {
    Ddl { sql: String::from_utf8_lossy(text).into_owned(), before, behind }
}

/// A text that each node is sent, or its part of it.
fn text_spread(
    plan: &Arc<Plan>,
    nodes: &[NodeId],
    merge: &Merge,
    text: &[u8],
    controls: &Option<Vec<Done>>,
) -> Result<Spread, Report> {
    let window = window(merge, &NoValues)?;
    let (times, text) = timing::found(plan, text)?;
    let text = &*text;
    let request =
        |text: Vec<u8>| Request::Text { plan: plan.clone(), text, controls: controls.clone() };
    let all = match merge {
        Merge::Rows(parts) => {
            Request::Each(rows::texts(text, parts)?.into_iter().map(request).collect())
        }
        _ => request(merge.text().map_or(text, str::as_bytes).to_vec()),
    };
    let how = How::Merged(Answer::new(merge.clone(), 0, window, false).into());
    let mut spread = Spread::new(nodes.to_vec(), all, how);
    spread.effect = effect_over_nodes(plan, merge);
    spread.times = times;
    Ok(spread)
}

/// What a statement that goes to every node may do there. One that only reads rows has no block of
/// pgshunt's own, whatever it calls.
pub(super) fn effect_over_nodes(plan: &Plan, merge: &Merge) -> Effect {
    match merge {
        Merge::Alike(_) | Merge::Changes { .. } | Merge::Rows(_) | Merge::CopyIn(_) => plan.effect,
        _ => plan.effect.min(Effect::Locks),
    }
}

/// Refuses a change of a reference table by what stands for the moment at which a node reads it.
///
/// # Errors
/// The text, or a parameter that is sent as text, has such a word.
pub(super) fn refuses_moments(
    table: &Reference,
    text: &[u8],
    bind: Option<&Bind<'_>>,
) -> Result<(), Report> {
    let parameters = bind.into_iter().flat_map(|b| (0..b.count()).filter_map(|n| b.param(n)));
    let texts = parameters.filter(|p| !p.binary).filter_map(|p| p.value);
    if !table.has_times || !std::iter::once(text).chain(texts).any(says_moment) {
        return Ok(());
    }
    Err(Report::error("0A000", format!("a change of the reference table {} with 'now', 'today', 'tomorrow' or 'yesterday' is not supported", table.quoted))
        .hint("Each node would have its own value. Compute it first and pass it as a parameter."))
}

fn says_moment(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
    text.split(|b| !is_part(b)).any(|word| WORDS.iter().any(|w| word.eq_ignore_ascii_case(w)))
}

pub(super) fn not_alone() -> Report {
    Report::error("0A000", "a statement that goes to every node must be alone between two Syncs")
        .hint("Send Sync before and after it, and execute it once (leave pipeline mode).")
}

pub(super) fn is_concerned(s: &crate::router::plan::Statement) -> bool {
    concerns_all(&s.control) || s.control == Control::PrepareTransaction
}

/// Why a statement cannot be carried out behind others of a segment that has no BEGIN, on several nodes.
fn refused_in_own_block(control: &Control) -> Option<Report> {
    // As PostgreSQL words it.
    let only_in_blocks = |what: &str| {
        Some(Report::error("25P01", format!("{what} can only be used in transaction blocks")))
    };
    match control {
        Control::Savepoint(_) => only_in_blocks("SAVEPOINT"),
        Control::Release(_) => only_in_blocks("RELEASE SAVEPOINT"),
        Control::RollbackTo(_) => only_in_blocks("ROLLBACK TO SAVEPOINT"),
        Control::Local | Control::LocalPath | Control::ResetLocal(_) => Some(
            Report::error(
                "0A000",
                "SET LOCAL cannot follow statements on several nodes without BEGIN",
            )
            .hint("Send BEGIN first: outside of a transaction block it sets nothing."),
        ),
        Control::Begin
        | Control::Commit
        | Control::Rollback
        | Control::CommitAndChain
        | Control::RollbackAndChain => Some(
            Report::error(
                "0A000",
                "BEGIN, COMMIT and ROLLBACK cannot follow statements on several nodes without Sync",
            )
            .hint("Send BEGIN first, or Sync before it (leave pipeline mode)."),
        ),
        _ => None,
    }
}

fn not_over_nodes(what: &str) -> Report {
    Report::error("0A000", format!("{what} not supported in a transaction of several nodes"))
}
