//! What a session's past says about the meaning of its next text.
//!
//! The planner reads a text by the search_path, the temporary tables and the encoding that are in
//! force when PostgreSQL reads it. What is under way may still change them.

use super::extended::Stop;
use super::link::{Expect, Reply};
use super::{Env, Need, Session};
use crate::router::Speech;
use crate::router::plan::{Control, Kind};
use crate::wire::backend::Report;

impl Session {
    /// What the planner must know of the session besides a text.
    pub(super) fn speech(&self) -> Speech<'_> {
        Speech {
            path: self.settings.search_path(),
            temporary: self.pinned.is_some(),
            foreign_text: self.settings.foreign_text(),
        }
    }

    /// Whether something under way may change what the next text means. It must be known first; in
    /// the extended protocol it will not be before the client sends Sync.
    pub(super) fn unsettled(&self) -> Result<Option<Need>, Report> {
        let Some(link) = &self.link else { return Ok(None) };
        let changes = |e: &Expect| {
            e.controls.as_ref().is_some_and(|all| {
                all.iter().any(|(c, _)| {
                    c.changes_reading() || *c == Control::Rollback && self.settings.is_pending()
                })
            })
        };
        match link.expects.iter().rposition(changes) {
            None => Ok(None),
            Some(at)
                if link.expects.range(at..).any(|e| matches!(e.reply, Reply::Sync | Reply::Query)) =>
            {
                Ok(Some(Need::Quiet))
            }
            Some(_) => Err(Report::error(
                "0A000",
                "a statement behind one that changes what names mean must be in a segment of its own",
            )
            .hint("Send Sync between them (leave pipeline mode).")),
        }
    }

    /// [`Session::unsettled`], in the extended protocol.
    pub(super) fn settled(&self) -> Result<(), Stop> {
        self.unsettled()?.map_or(Ok(()), |need| Err(Stop::Wait(need)))
    }

    /// Whether a segment that begins with this statement may need another node than the one that is
    /// still answering the segment before: sent there, it could not be taken back.
    pub(super) fn may_go_elsewhere(&self, kind: &Kind, env: &Env<'_>) -> bool {
        let Some(link) = self.link.as_ref().filter(|l| !l.is_quiet() && l.is_synced()) else {
            return false;
        };
        match kind {
            Kind::Keys { .. } | Kind::Leaf(_) | Kind::Every { .. } | Kind::Ddl => true,
            Kind::Home => link.node != env.routes.home().id,
            Kind::Any | Kind::Refused(_) => false,
        }
    }
}
