//! How a step can fail, and what follows from it.

use crate::backend::control::{ConnectError, words};
use crate::catalog::CatalogError;

use super::machine::Input;

/// Why a step did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{node}, {doing}: {}", words(source))]
    Sql { node: String, doing: String, source: tokio_postgres::Error },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It cannot work as things are.
    #[error("{0}")]
    Refused(String),
    /// Somebody is in the way.
    #[error("{0}")]
    Blocked(String),
    /// It fails again and again, and only another beginning can help.
    #[error("{0}")]
    Stuck(String),
    #[error("cancelled")]
    Cancelled,
    #[error("taken over by ROLLBACK MOVE")]
    HandedOver,
    /// Another process holds this move's lock: it is no longer ours.
    #[error("another pgshunt carries out this move")]
    LockLost,
}

impl StepError {
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql { source, .. } => source.code().map(|c| c.code()),
            Self::Connect(e) => e.sqlstate(),
            _ => None,
        }
    }

    /// A lock was not granted in time, or granting it would have been a deadlock.
    pub fn is_lock_conflict(&self) -> bool {
        matches!(self.sqlstate(), Some("55P03" | "40P01" | "40001" | "55006"))
    }

    /// It may pass by itself: a lost connection, a node that restarts, a lock.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Sql { .. } => match self.sqlstate() {
                None => true,
                Some(code) => {
                    code.starts_with("08")
                        || code.starts_with("57P")
                        || code.starts_with("53")
                        || self.is_lock_conflict()
                }
            },
            Self::Catalog(CatalogError::Connect(_)) => true,
            Self::Catalog(CatalogError::Postgres(e)) => e.code().is_none(),
            Self::Catalog(_) | Self::Refused(_) | Self::Blocked(_) | Self::Stuck(_) => false,
            Self::Cancelled | Self::HandedOver | Self::LockLost => false,
        }
    }

    /// What the machine is told. `None`: the task just ends.
    pub fn into_input(self) -> Option<Input> {
        if self.is_transient() {
            return Some(Input::Lost(self.to_string()));
        }
        match self {
            Self::Blocked(who) => Some(Input::Blocked(who)),
            Self::Stuck(why) => Some(Input::Stuck(why)),
            Self::Cancelled => Some(Input::Cancelled),
            Self::HandedOver => Some(Input::HandOver),
            Self::LockLost => None,
            Self::Connect(_) | Self::Sql { .. } | Self::Catalog(_) | Self::Refused(_) => {
                Some(Input::Failed(self.to_string()))
            }
        }
    }
}
