//! Plans of long texts, which others make.

use std::sync::Arc;

use super::{Env, Need, Session, Statement};
use crate::router::analysis::{Analysed, Under, is_long};
use crate::router::plan::Plan;

impl Session {
    /// What [`Need::Analysis`] asked for is there. It is kept until the message that needs it is taken.
    pub fn analysed(&mut self, analysed: Analysed) {
        self.analysed = Some(analysed);
    }

    /// The plan of a prepared statement's text; a long one's if it has been made.
    pub(super) fn plan_text(&self, text: &[u8], env: &mut Env<'_>) -> Result<Arc<Plan>, Need> {
        if is_long(text) {
            return self.long_plan(text, env);
        }
        Ok(env.planner.plan_text(text, env.routes, self.speech()))
    }

    pub(super) fn long_plan(&self, text: &[u8], env: &mut Env<'_>) -> Result<Arc<Plan>, Need> {
        let under = Under::new(env.routes, self.speech());
        match &self.analysed {
            Some(analysed) if analysed.is_of(text, &under) => Ok(analysed.plan.clone()),
            _ => Err(Need::Analysis(env.planner.order(text, env.routes, self.speech()))),
        }
    }

    /// The statement's plan under the routing table in force now.
    pub(super) fn fresh_plan(
        &self,
        statement: &Statement,
        env: &mut Env<'_>,
    ) -> Result<Arc<Plan>, Need> {
        let holds = |under: &Under| *under == Under::new(env.routes, self.speech());
        match &statement.planned_under {
            Some(under) if holds(under) => Ok(statement.plan.clone()),
            _ => self.plan_text(&statement.text, env),
        }
    }
}
