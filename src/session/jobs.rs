//! Requests that concern several nodes: whether they may start now, and what each node is sent.

use super::extended::Stop;
use super::{Env, Flow, Gather, Job, Need, Pending, Session};
use crate::router::place::{NoValues, Place};
use crate::router::plan::{Kind, Merge, Plan};
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend;

impl Session {
    /// The job a query is, if it concerns several nodes.
    pub(super) fn query_job(
        &mut self,
        plan: &Plan,
        place: &Place,
        text: &[u8],
        env: &mut Env<'_>,
    ) -> Option<Result<Flow, Report>> {
        let job = match (place, &plan.kind) {
            (Place::Every { .. }, _) => {
                let mut request = Vec::with_capacity(text.len() + 6);
                frontend::put_query(&mut request, text);
                self.job(&plan.kind, place, request, env)
            }
            (_, Kind::Ddl) => ddl(text, Vec::new(), Vec::new()),
            _ => return None,
        };
        Some(self.job_allowed(&job, env).map(|need| match need {
            Some(need) => Flow::Wait(need),
            None => {
                self.count(plan);
                Flow::Wait(Need::Job(Box::new(job)))
            }
        }))
    }

    /// Whether the session is in a state in which work on several nodes may start.
    pub(super) fn job_allowed(
        &mut self,
        job: &Job,
        env: &mut Env<'_>,
    ) -> Result<Option<Need>, Report> {
        if let Some(link) = &self.link {
            if !link.is_quiet() {
                return Ok(Some(Need::Quiet));
            }
            self.let_go |= !link.started;
            if link.in_segment {
                return Err(Report::error(
                    "0A000",
                    "a statement that goes to every node must be alone between two Syncs",
                )
                .hint("Send Sync before and after it (leave pipeline mode)."));
            }
        }
        if self.status == Status::Failed {
            return Err(Report::error(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        if self.status != Status::Idle {
            return Err(match job {
                Job::Gather(_) => Report::error(
                    "0A000",
                    "a statement that goes to every node cannot run inside a transaction block",
                )
                .hint("Run it outside of the transaction, or add an equality on the distribution column."),
                Job::Ddl { .. } => Report::error(
                    "0A000",
                    "a statement that changes every node cannot run inside a transaction block",
                )
                .hint("Run it outside of the transaction; it is atomic over all nodes by itself."),
            });
        }
        if let (Some(why), Job::Gather(_)) = (self.pinned, job) {
            return Err(Report::error(
                "0A000",
                format!("this session is bound to one node by {why} and cannot read from all"),
            )
            .hint("Use another connection for this statement."));
        }
        if let Job::Gather(g) = job
            && env.gate.would_hold(crate::gate::machine::Touch::Group(g.group))
        {
            return Ok(Some(Need::Gate));
        }
        Ok(None)
    }

    /// A job stands alone in its segment, and the connection must be free for it.
    pub(super) fn before_job(
        &mut self,
        kind: &Kind,
        place: &Place,
        env: &mut Env<'_>,
    ) -> Result<(), Stop> {
        let busy = self.pending.iter().any(|p| matches!(p, Pending::Bind { .. }));
        let mixed = self.link.as_ref().is_some_and(|l| !l.is_quiet()) || busy;
        if mixed && self.link.as_ref().is_none_or(|l| l.is_quiet()) {
            return Err(Report::error(
                "0A000",
                "a statement that goes to every node must be alone between two Syncs",
            )
            .hint("Send Sync before and after it (leave pipeline mode).")
            .into());
        }
        let job = self.job(kind, place, Vec::new(), env);
        match self.job_allowed(&job, env)? {
            None => Ok(()),
            Some(need) => Err(Stop::Wait(need)),
        }
    }

    fn job(&self, kind: &Kind, place: &Place, request: Vec<u8>, env: &Env<'_>) -> Job {
        match (kind, place) {
            (_, Place::Every { group, nodes, merge }) => Job::Gather(Gather {
                group: *group,
                nodes: nodes.clone(),
                merge: merge.clone(),
                request,
                epoch: env.routes.epoch,
                hide_parse: false,
                hide_describe: false,
                limit: 0,
                behind: Vec::new(),
                settings: self.settings.current().clone(),
            }),
            _ => ddl(&request, Vec::new(), Vec::new()),
        }
    }

    /// The job that is pending, with its request written as one segment with the unnamed statement.
    pub(super) fn pending_job(&mut self, env: &mut Env<'_>) -> Result<Option<Job>, Stop> {
        let bind = self.pending.iter().find_map(|p| match p {
            Pending::Bind { statement, .. }
                if matches!(statement.plan.kind, Kind::Every { .. } | Kind::Ddl) =>
            {
                Some(statement.clone())
            }
            _ => None,
        });
        let Some(statement) = bind else { return Ok(None) };
        let plan = self.fresh_plan(&statement, env)?;
        let place = crate::router::place::place(&plan.kind, &NoValues, env.routes)?;
        let (mut described, mut hide_describe, mut rows) = (false, false, 0);
        let mut request = Vec::new();
        let mut parsed = false;
        let count = |what: fn(&Pending) -> bool| self.pending.iter().filter(|&p| what(p)).count();
        let binds = count(|p| matches!(p, Pending::Bind { .. }));
        let executes = count(|p| matches!(p, Pending::Execute { .. }));
        if executes == 0 && binds == 1 && plan.kind != Kind::Ddl {
            // Only to be described, which any one node can do.
            return Ok(None);
        }
        if binds > 1 || executes != 1 {
            return Err(not_alone().into());
        }
        // Of DDL: what answers the messages before Execute. Of both: what answers those behind it.
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        let mut executed = false;
        for p in &self.pending {
            match p {
                Pending::Parse { statement: s, .. } if s.id == statement.id && !executed => {
                    parsed = true;
                    backend::put_bare(&mut before, b'1');
                    frontend::put_parse(&mut request, b"", &s.text, &s.types());
                }
                Pending::DescribeStatement { statement: s, .. }
                    if s.id == statement.id && plan.kind != Kind::Ddl && !executed =>
                {
                    frontend::put_named(&mut request, b'D', b'S', b"");
                }
                Pending::ClosePortal { .. } | Pending::Ours { .. } if executed => {
                    behind.extend_from_slice(&p.bytes());
                }
                // A portal of the request itself that is closed before cannot be executed any more.
                Pending::ClosePortal { .. } | Pending::Ours { .. } if p.bytes() == CLOSED => {
                    backend::put_bare(&mut before, b'3');
                    frontend::put_named(&mut request, b'C', b'P', NO_PORTAL);
                }
                Pending::Parse { .. }
                | Pending::DescribeStatement { .. }
                | Pending::ClosePortal { .. }
                | Pending::Ours { .. } => return Err(not_alone().into()),
                Pending::Bind { rest, .. } => {
                    backend::put_bare(&mut before, b'2');
                    frontend::put_bind(&mut request, b"", b"", rest);
                }
                Pending::DescribePortal { .. } if executed => return Err(not_alone().into()),
                Pending::DescribePortal { .. } => {
                    described = true;
                    backend::put_bare(&mut before, b'n');
                    frontend::put_named(&mut request, b'D', b'P', b"");
                }
                Pending::Execute { limit, .. } => {
                    executed = true;
                    // Folding needs the columns' types, whether the client asks for them or not.
                    if !described && matches!(plan.kind, Kind::Every { merge: Merge::Fold(_), .. })
                    {
                        hide_describe = true;
                        frontend::put_named(&mut request, b'D', b'P', b"");
                    }
                    rows = u64::try_from(*limit).unwrap_or(0);
                    crate::wire::frame::put(&mut request, b'E', |b| b.extend_from_slice(&[0; 5]));
                }
            }
        }
        if plan.kind == Kind::Ddl {
            return Ok(Some(ddl(&statement.text, before, behind)));
        }
        if !parsed {
            // Prepared earlier: each node learns it now; its ParseComplete is not the client's.
            let mut whole = Vec::new();
            frontend::put_parse(&mut whole, b"", &statement.text, &statement.types());
            whole.extend_from_slice(&request);
            request = whole;
        }
        frontend::put_empty(&mut request, b'S');
        let mut job = self.job(&plan.kind, &place, request, env);
        if let Job::Gather(g) = &mut job {
            g.hide_parse = !parsed;
            g.hide_describe = hide_describe;
            g.limit = rows;
            g.behind = behind;
        }
        Ok(Some(job))
    }
}

/// CloseComplete
const CLOSED: &[u8] = b"3\0\0\0\x04";

/// A name that no portal bears on a node.
const NO_PORTAL: &[u8] = b"pgs_none";

fn ddl(text: &[u8], before: Vec<u8>, behind: Vec<u8>) -> Job {
    Job::Ddl { sql: String::from_utf8_lossy(text).into_owned(), before, behind }
}

fn not_alone() -> Report {
    Report::error("0A000", "a statement that goes to every node must be alone between two Syncs")
        .hint("Send Sync before and after it, and execute it once (leave pipeline mode).")
}
