//! What the client sends of a statement that concerns several nodes, by the extended protocol: its messages
//! wait until something comes that is none of them, and are then carried out together.

use std::rc::Rc;
use std::sync::Arc;

use super::block::{OwnBlock, aborted};
use super::gathering::{Asked, PLAIN_BIND, Told};
use super::link::{Done, Expect, Fate, Reply};
use super::participants::concerns_all;
use super::request::{Request, Segment};
use super::several::{
    ddl, effect_over_nodes, gathered, groups_of, not_alone, refuses_moments, window,
};
use super::simple::controls;
use super::splitting::{Protocol, Splitting};
use super::spread::{How, Spread};
use super::stop::Stop;
use super::timing;
use super::{Env, Io, Need, Pending, Session, Statement, rows};
use crate::merge::{Answer, Gather, Hold, Window};
use crate::router::place::{BindValues, NoValues, Place};
use crate::router::plan::{Control, Ddl as Way, Kind, Merge, Plan};
use crate::topology::GroupId;
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend;

impl Session {
    /// Whether a statement of the extended protocol concerns several nodes.
    pub(super) fn is_batch(&self, plan: &Plan, place: &Place) -> bool {
        let counts = |c: &Control| self.status != Status::Failed || c.ends_block();
        let all = || {
            let all = |c: &Control| concerns_all(c) || self.sets_options(c);
            let concerned = plan.single().is_some_and(|c| all(c) && counts(c));
            self.may_be_several() && concerned && self.participants().len() > 1
        };
        matches!(place, Place::Every { .. })
            || matches!(plan.kind, Kind::Ddl(_)) && self.place_to_fail().is_none()
            || all()
    }

    /// The Bind of a statement on several nodes comes: what is under way must be answered, and what is
    /// pending must be of the statement.
    pub(super) fn before_batch(
        &mut self,
        plan: &Plan,
        place: &Place,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.answer_virtual_head(io);
        if self.pending.iter().any(|p| matches!(p, Pending::Bind { .. })) {
            return Err(not_alone().into());
        }
        let need = match place {
            Place::Every { .. } if self.status == Status::Failed => Err(aborted()),
            Place::Every { group, nodes, merge } => {
                self.ensure_all(&groups_of(*group, merge), nodes, env, io)
            }
            _ if matches!(plan.kind, Kind::Ddl(_)) && self.within_block(plan).is_none() => {
                self.ddl_allowed(plan)
            }
            _ => Ok(None),
        };
        need?.map_or(Ok(()), |need| Err(Stop::Wait(need)))
    }

    /// Why a portal cannot be executed in another segment than the one that has bound it, if so: it is on
    /// one node, and its statement concerns several.
    pub(super) fn refuses_alone(&self, portal: &[u8]) -> Option<Report> {
        // What it was bound as counts: its tables may have become others since it was parsed.
        let portal = self.portal(portal)?;
        let concerns = || portal.statement.plan.single().is_some_and(concerns_all);
        (portal.over_nodes || concerns() && self.participants().len() > 1).then(|| {
            Report::error("0A000", "a statement that goes to every node must be executed at once")
                .hint("Send Bind and Execute together, without a row limit (a fetch size).")
        })
    }

    /// Something comes that is not of the statement on several nodes which is pending, if one is: that
    /// is carried out first.
    pub(super) fn cut_batch(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        match self.carry_out_batch(false, env, io)? {
            true => Err(Stop::Wait(Need::Quiet)),
            false => Ok(()),
        }
    }

    /// A portal that is only bound now, within a transaction, has its rows read now: they are those of this moment.
    fn opens_portal(&self, place: &Place) -> bool {
        let reads = |merge: &Merge| {
            !matches!(
                merge,
                Merge::Changes { .. }
                    | Merge::Rows(_)
                    | Merge::CopyIn(_)
                    | Merge::CopyOut(_)
                    | Merge::CopyRows(_)
            )
        };
        let begun = self.status != Status::Idle && self.own_block == OwnBlock::No;
        begun && matches!(place, Place::Every { merge, .. } if reads(merge))
    }

    /// Sends what is pending where it belongs, before a Flush or a Query.
    pub(super) fn cut_pending(
        &mut self,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        match self.carry_out_batch(false, env, io) {
            Ok(true) => Ok(Some(Need::Quiet)),
            Ok(false) => self.flush_pending(env, io),
            Err(Stop::Wait(need)) => Ok(Some(need)),
            Err(Stop::Refuse(report)) => Err(*report),
        }
    }

    /// Begins to carry out what is pending, if that is a statement on several nodes which is executed.
    /// `ready`: by Sync.
    pub(super) fn carry_out_batch(
        &mut self,
        ready: bool,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<bool, Stop> {
        let bound = self.pending.iter().find_map(|p| match p {
            Pending::Bind { statement, .. } => Some(statement.clone()),
            _ => None,
        });
        let Some(statement) = bound else { return Ok(false) };
        let alone = !matches!(statement.plan.kind, Kind::Every { .. } | Kind::Ddl(_))
            && statement.plan.rows.is_none();
        if alone && !self.may_be_several() {
            return Ok(false);
        }
        let plan = self.fresh_plan(&statement, env)?;
        let by_values = plan.rows.is_some() || plan.among.is_some();
        let place = match &plan.kind {
            Kind::Every { .. } | Kind::Keys { .. } if by_values => {
                self.place_of_rows(&plan, &statement, env)?
            }
            Kind::Every { .. } | Kind::Ddl(_) => {
                crate::router::place::place(&plan.kind, &NoValues, env.routes)?
            }
            _ => Place::Any,
        };
        if !self.is_batch(&plan, &place) {
            return Ok(false);
        }
        let count = |what: fn(&Pending) -> bool| self.pending.iter().filter(|&p| what(p)).count();
        let binds = count(|p| matches!(p, Pending::Bind { .. }));
        let executes = count(|p| matches!(p, Pending::Execute { .. }));
        let reads = plan.declares().is_none();
        let opens = executes == 0 && binds == 1 && reads && self.opens_portal(&place);
        if executes == 0 && binds == 1 && !opens && !matches!(plan.kind, Kind::Ddl(_)) {
            // Only to be described, which any one node can do.
            return Ok(false);
        }
        if binds > 1 || executes != 1 && !opens {
            return Err(not_alone().into());
        }
        let mut batch = self.batch(&statement, &plan, &place)?;
        batch.hold = match (opens, batch.limit > 0 && self.status != Status::Idle) {
            (true, _) => {
                batch.executes(&place);
                Hold::All
            }
            (false, true) => Hold::Rest,
            (false, false) => Hold::Nothing,
        };
        if takes_types(&plan) {
            self.learn_types(&statement, &batch, io)?;
        }
        if matches!(plan.kind, Kind::Ddl(_)) {
            return self.carry_out_ddl(&statement, &plan, batch, ready, env, io);
        }
        let (groups, mut spread) = self.batch_spread(&mut batch, place, &statement, &plan)?;
        spread.portal = std::mem::take(&mut batch.portal);
        let places = groups.first().map(|group| (*group, spread.nodes()));
        spread.splitting =
            places.and_then(|places| Splitting::of(&plan, places, Protocol::Extended, env));
        if let Kind::Every { merge, .. } = &plan.kind
            && let Some(table) = merge.reference()
        {
            let bind = frontend::bind_of(batch.bind().unwrap_or(&PLAIN_BIND))?;
            refuses_moments(table, &statement.text, Some(&bind))?;
            spread.holds_first(table);
        }
        spread.behind = batch.behind;
        spread.ready = ready;
        match self.spread_over(&groups, spread, env, io)? {
            Some(need) => Err(Stop::Wait(need)),
            None => {
                self.count(&plan);
                Ok(true)
            }
        }
    }

    /// The same of DDL: within the open transaction, or else by pgshunt.
    fn carry_out_ddl(
        &mut self,
        statement: &Statement,
        plan: &Arc<Plan>,
        batch: Batch,
        ready: bool,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<bool, Stop> {
        let maintain = match &plan.kind {
            Kind::Ddl(Way::Maintain(maintain)) => Some(maintain),
            _ => None,
        };
        let each = self.within_block(plan);
        if maintain.is_none() && each.is_none() {
            if !ready {
                return Err(Report::error(
                    "0A000",
                    "a statement that changes every node must be ended by Sync",
                )
                .hint("Use Sync instead of Flush.")
                .into());
            }
            return Err(Stop::Wait(match self.ddl_allowed(plan)? {
                Some(need) => need,
                None => Need::Ddl(Box::new(ddl(&statement.text, batch.before, batch.behind))),
            }));
        }
        let answers = |spread: &mut Spread| {
            spread.answered = batch.messages.len().saturating_sub(1);
            (spread.before, spread.behind, spread.ready) = (batch.before, batch.behind, ready);
        };
        let need = match (maintain, each) {
            (Some(maintain), _) => self.maintain(maintain, plan, answers, env, io)?,
            (None, Some(each)) => self.ddl_over_all(each, plan, answers, env, io)?,
            (None, None) => None,
        };
        match need {
            Some(need) => Err(Stop::Wait(need)),
            None => {
                self.count(plan);
                Ok(true)
            }
        }
    }

    /// Where the rows of the INSERT that is pending lie.
    fn place_of_rows(
        &self,
        plan: &Plan,
        statement: &Statement,
        env: &Env<'_>,
    ) -> Result<Place, Stop> {
        let rest = self.pending.iter().find_map(|p| match p {
            Pending::Bind { rest, .. } => Some(rest),
            _ => None,
        });
        let Some(rest) = rest else { return Ok(Place::Any) };
        let bind = frontend::bind_of(rest)?;
        let values = BindValues { bind: &bind, oids: &statement.oids };
        Ok(crate::router::place_of(plan, &values, env.routes)?)
    }

    /// How a batch is carried out.
    fn batch_spread(
        &self,
        batch: &mut Batch,
        place: Place,
        statement: &Statement,
        plan: &Arc<Plan>,
    ) -> Result<(Vec<GroupId>, Spread), Stop> {
        let spans = |n: usize| plan.statements.get(n).map_or((0, 0), |s| s.span);
        let done = controls(plan, &statement.text, spans);
        Ok(match place {
            Place::Every { group, nodes, merge } => {
                let groups = groups_of(group, &merge);
                if let Some(gather) = Gather::of(&merge) {
                    let controls = done.map(Rc::from);
                    let asked = Asked { controls, ..batch.asked(statement) };
                    return Ok((groups, gathered(gather, plan, asked, nodes)?));
                }
                let (window, binary) = batch.window(statement, &merge)?;
                let (times, text) = timing::found(plan, &statement.text)?;
                let told = (statement, &*text);
                let request = batch.request(told, plan, &merge, done.map(Rc::from))?;
                let effect = effect_over_nodes(plan, &merge);
                let answer = Answer::new(merge, batch.limit, window, binary);
                let how = How::Merged(answer.holding(batch.hold).into());
                let mut spread = Spread::new(nodes, request, how);
                spread.effect = effect;
                spread.times = times;
                spread.hide_parse = !batch.parsed;
                spread.hide_describe = !batch.described;
                (groups, spread)
            }
            Place::Any | Place::Node { .. } => {
                let control = plan.single().unwrap_or(&Control::None);
                let mut spread = self.control_spread(control, plan, &statement.text, &done);
                if *control == Control::Local {
                    // It may be a SELECT, and return a row.
                    spread.hide_parse = !batch.parsed;
                    spread.hide_describe = !batch.described;
                    let segment = batch.segment(&statement.text, &statement.types(), None);
                    spread.request = segment.request(plan, done.map(Rc::from));
                } else {
                    spread.answered = batch.messages.len().saturating_sub(1);
                    spread.before = std::mem::take(&mut batch.before);
                }
                (Vec::new(), spread)
            }
        })
    }

    /// A statement on several nodes is to be executed, which no single one may carry out.
    pub(super) fn has_batch(&self) -> bool {
        let every = |p: &Pending| match p {
            Pending::Bind { statement, .. } => {
                matches!(statement.plan.kind, Kind::Every { .. }) || statement.plan.rows.is_some()
            }
            _ => false,
        };
        let executes = |p: &Pending| matches!(p, Pending::Execute { .. });
        self.pending.iter().any(every) && self.pending.iter().any(executes)
    }

    /// The types of the statement's parameters must be known before it can be taken apart: PostgreSQL is
    /// asked for those that are not declared.
    fn learn_types(
        &mut self,
        statement: &Rc<Statement>,
        batch: &Batch,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        let Some(bind) = batch.bind() else { return Ok(()) };
        let parameters = frontend::bind_of(bind)?.count();
        if statement.has_types(parameters) {
            return Ok(());
        }
        if self.asked_types.replace(statement.id) == Some(statement.id) {
            self.asked_types = None;
            return Err(Report::error("0A000", "cannot tell the types of the parameters")
                .hint("Declare them.")
                .into());
        }
        self.begin_on_link(io);
        let Some(link) = &mut self.link else { return Ok(()) };
        frontend::put_parse(io.server, b"", &statement.text, &statement.oids);
        let mut e = Expect::new(Reply::Parse, Fate::Swallow);
        e.undo.unnamed = Some(link.unnamed.take());
        link.push(e);
        frontend::put_named(io.server, b'D', b'S', b"");
        let mut e = Expect::new(Reply::Describe, Fate::Swallow);
        e.statement = Some(statement.clone());
        link.push(e);
        Err(Stop::Wait(Need::Quiet))
    }

    /// What is pending of the statement, message by message.
    fn batch(&self, statement: &Statement, plan: &Plan, place: &Place) -> Result<Batch, Report> {
        let merge = match place {
            Place::Every { merge, .. } => Some(merge),
            Place::Any | Place::Node { .. } => None,
        };
        // A write returns all its rows at once, if any.
        let (returns, changes) = match merge {
            Some(Merge::Changes { returns }) => (*returns, true),
            Some(Merge::Alike(alike)) => (alike.returns, true),
            Some(Merge::Rows(parts)) => (parts.returns, true),
            Some(Merge::CopyIn(_) | Merge::CopyOut(_) | Merge::CopyRows(_)) => (false, false),
            Some(_) => (true, false),
            None => (false, false),
        };
        let mut batch = Batch::default();
        let mut executed = false;
        for p in &self.pending {
            match p {
                Pending::Parse { statement: s, .. } if statement.is_for(s) && !executed => {
                    batch.parsed = true;
                    backend::put_bare(&mut batch.before, b'1');
                    batch.messages.push(Message::Parse);
                }
                Pending::DescribeStatement { statement: s, .. }
                    if statement.is_for(s) && !matches!(plan.kind, Kind::Ddl(_)) && !executed =>
                {
                    crate::wire::frame::put(&mut batch.before, b't', |b| {
                        b.extend_from_slice(&[0, 0])
                    });
                    backend::put_bare(&mut batch.before, b'n');
                    batch.messages.push(Message::Describe(b'S'));
                }
                Pending::ClosePortal { .. } | Pending::Ours { .. } if executed => {
                    batch.behind.extend_from_slice(&p.bytes());
                }
                // A portal of the request itself that is closed before cannot be executed any more.
                Pending::ClosePortal { .. } | Pending::Ours { .. } if p.bytes() == CLOSED => {
                    backend::put_bare(&mut batch.before, b'3');
                    batch.messages.push(Message::Close);
                }
                Pending::Parse { .. }
                | Pending::DescribeStatement { .. }
                | Pending::ClosePortal { .. }
                | Pending::Ours { .. } => return Err(not_alone()),
                Pending::Bind { portal, rest, .. } => {
                    batch.portal.clone_from(portal);
                    backend::put_bare(&mut batch.before, b'2');
                    batch.messages.push(Message::Bind(rest.clone()));
                }
                Pending::DescribePortal { .. } if executed => return Err(not_alone()),
                Pending::DescribePortal { .. } => {
                    batch.described = true;
                    backend::put_bare(&mut batch.before, b'n');
                    batch.messages.push(Message::Describe(b'P'));
                }
                Pending::Execute { limit, .. } => {
                    executed = true;
                    if returns {
                        batch.limit = u64::try_from(*limit).unwrap_or(0);
                    }
                    batch.executes(place);
                }
            }
        }
        if batch.limit > 0 && changes {
            return Err(Report::error(
                "0A000",
                "a statement that changes rows on several nodes cannot be executed row by row",
            )
            .hint("Execute it without a row limit (a fetch size)."));
        }
        Ok(batch)
    }
}

/// The types of a statement's parameters must be declared where it is sent in other words.
fn takes_types(plan: &Plan) -> bool {
    match &plan.kind {
        Kind::Every { merge: Merge::Combine(_), .. } => true,
        Kind::Every { merge: Merge::Collect(collect), .. } => collect.takes_parameters,
        _ => false,
    }
}

/// A message of a batch.
enum Message {
    Parse,
    Bind(Vec<u8>),
    Describe(u8),
    Close,
    Execute,
}

#[derive(Default)]
struct Batch {
    messages: Vec<Message>,
    parsed: bool,
    described: bool,
    /// The row limit of Execute; 0: none.
    limit: u64,
    /// The client's portal, and which rows are kept for it.
    portal: Vec<u8>,
    hold: Hold,
    /// What answers the messages before Execute where no node does, and behind it.
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl Batch {
    /// The portal is executed.
    fn executes(&mut self, place: &Place) {
        // Folding needs the columns' types, whether the client asks for them or not.
        if matches!(place, Place::Every { merge: Merge::Fold(_), .. }) && !self.described {
            self.messages.push(Message::Describe(b'P'));
        }
        self.messages.push(Message::Execute);
    }

    fn bind(&self) -> Option<&[u8]> {
        self.messages.iter().find_map(|m| match m {
            Message::Bind(rest) => Some(rest.as_slice()),
            _ => None,
        })
    }

    /// The statement, to be taken apart.
    fn asked(&self, statement: &Statement) -> Asked {
        let told = self.messages.iter().filter_map(|m| match m {
            Message::Parse => Some(Told::Parsed),
            Message::Bind(_) => Some(Told::Bound),
            Message::Describe(b'S') => Some(Told::Statement),
            Message::Describe(_) => Some(Told::Portal),
            Message::Close => Some(Told::Closed),
            Message::Execute => None,
        });
        Asked {
            text: statement.text.clone(),
            types: statement.types(),
            bind: self.bind().unwrap_or(&PLAIN_BIND).to_vec(),
            told: told.collect(),
            controls: None,
            limit: self.limit,
            hold: self.hold,
        }
    }

    /// Which rows the client gets, and whether what they are sorted by comes in binary format: one column
    /// more than the client has asked for.
    fn window(&mut self, statement: &Statement, merge: &Merge) -> Result<(Window, bool), Stop> {
        let sorts = matches!(merge, Merge::Ordered(o) if !o.keys.is_empty());
        let bind = self.messages.iter_mut().find_map(|m| match m {
            Message::Bind(rest) => Some(rest),
            _ => None,
        });
        let Some(rest) = bind else { return Ok((Window::default(), false)) };
        let bind = frontend::bind_of(rest)?;
        let window = window(merge, &BindValues { bind: &bind, oids: &statement.oids })?;
        let (more, binary) = bind.with_one_more();
        if sorts {
            *rest = more;
        }
        Ok((window, binary))
    }

    /// What each node is sent.
    fn request(
        &self,
        (statement, text): (&Statement, &[u8]),
        plan: &Arc<Plan>,
        merge: &Merge,
        done: Option<Rc<[Done]>>,
    ) -> Result<Request, Stop> {
        let Merge::Rows(parts) = merge else {
            let text = merge.text().map_or(text, str::as_bytes);
            let segment = self.segment(text, &statement.types(), None);
            return Ok(match merge {
                // Sync comes behind the data.
                Merge::CopyIn(_) => segment.open(plan, done),
                _ => segment.request(plan, done),
            });
        };
        let described = |m: &Message| matches!(m, Message::Describe(b'S'));
        if self.messages.iter().any(described) {
            // A node would tell the types of its own rows' parameters.
            return Err(not_alone().into());
        }
        let bind = self.messages.iter().find_map(|m| match m {
            Message::Bind(rest) => Some(rest),
            _ => None,
        });
        let bind = frontend::bind_of(bind.map_or(&[][..], Vec::as_slice))?;
        let request = |part: rows::Part| {
            self.segment(&part.text, &part.types, Some(&part.bind)).request(plan, done.clone())
        };
        Ok(Request::Each(
            rows::bound((statement, text), &bind, parts)?.into_iter().map(request).collect(),
        ))
    }

    /// As each node gets it: with the unnamed statement, which is prepared anew.
    fn segment(&self, text: &[u8], types: &[u8], bind: Option<&[u8]>) -> Segment {
        let mut segment = Segment::new();
        if !self.parsed {
            segment.parse(text, types);
        }
        for message in &self.messages {
            match message {
                Message::Parse => segment.parse(text, types),
                Message::Bind(rest) => segment.bind(bind.unwrap_or(rest)),
                Message::Describe(what) => segment.describe(*what),
                Message::Close => segment.close_portal(NO_PORTAL),
                Message::Execute => segment.execute(0),
            }
        }
        segment
    }
}

/// CloseComplete
const CLOSED: &[u8] = b"3\0\0\0\x04";

/// A name that no portal bears on a node.
const NO_PORTAL: &[u8] = b"pgs_none";
