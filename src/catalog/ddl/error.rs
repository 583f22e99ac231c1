//! Why a DDL statement was not carried out, in the words the client is given.

use tokio_postgres::error::{DbError, ErrorPosition};

use crate::backend::control::ConnectError;
use crate::catalog::CatalogError;
use crate::topology::GroupId;
use crate::wire::backend::Report;

/// The fields of the ErrorResponse a client gets: PostgreSQL's own where a node refused, ours where
/// we did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({sqlstate})")]
pub struct DdlError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where in the client's text, counted in characters from 1.
    pub position: Option<u32>,
    pub fields: Box<Fields>,
    /// The colocation group whose moves are in the way; when they are over the statement may work.
    pub moving: Option<GroupId>,
}

/// What a node said besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// A position in a text that the node made up or a function holds, and that text.
    pub internal: Option<(u32, String)>,
    pub context: Option<String>,
    /// Schema, table, column, data type, constraint, file, line and routine, each with its code in the protocol.
    pub named: Vec<(u8, String)>,
}

impl DdlError {
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Self {
        Self {
            sqlstate: sqlstate.into(),
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            fields: Box::default(),
            moving: None,
        }
    }

    /// 0A000: what pgshunt does not do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new("0A000", message)
            .hint("pgshunt carries out DDL of distributed tables on all nodes or not at all.")
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the home node has accepted and another one does not know: what CREATE TYPE, CREATE
    /// FUNCTION and CREATE SEQUENCE make is on the home node alone.
    #[must_use]
    pub fn only_at_home(self) -> Self {
        match self.sqlstate.as_str() {
            "42883" | "42704" | "42P01" | "3F000" => Self {
                detail: self.detail,
                ..Self::unsupported(format!(
                    "the table would not be the same on every node: {}",
                    self.message
                ))
                .hint(
                    "Types, functions and sequences are on the home node only. Use built-in ones.",
                )
            },
            _ => self,
        }
    }

    /// Names the node an error comes from.
    pub fn on_node(mut self, node: &str) -> Self {
        let place = format!("This happened on node \"{node}\".");
        self.detail = Some(match self.detail.take() {
            Some(detail) => format!("{detail}\n{place}"),
            None => place,
        });
        self
    }
}

/// For the client's own statement.
impl From<&DbError> for DdlError {
    fn from(e: &DbError) -> Self {
        Self {
            sqlstate: e.code().code().into(),
            message: e.message().into(),
            detail: e.detail().map(Into::into),
            hint: e.hint().map(Into::into),
            position: match e.position() {
                Some(ErrorPosition::Original(at)) => Some(*at),
                Some(ErrorPosition::Internal { .. }) | None => None,
            },
            fields: Box::new(Fields::of(e)),
            moving: None,
        }
    }
}

impl Fields {
    fn of(e: &DbError) -> Self {
        let line = e.line().map(|l| l.to_string());
        let named = [
            (b's', e.schema()),
            (b't', e.table()),
            (b'c', e.column()),
            (b'd', e.datatype()),
            (b'n', e.constraint()),
            (b'F', e.file()),
            (b'L', line.as_deref()),
            (b'R', e.routine()),
        ];
        Self {
            internal: match e.position() {
                Some(ErrorPosition::Internal { position, query }) => {
                    Some((*position, query.clone()))
                }
                Some(ErrorPosition::Original(_)) | None => None,
            },
            context: e.where_().map(Into::into),
            named: named
                .into_iter()
                .filter_map(|(code, text)| Some((code, text?.to_owned())))
                .collect(),
        }
    }
}

impl From<DdlError> for Report {
    fn from(e: DdlError) -> Self {
        let mut fields = Vec::new();
        fields.extend(e.position.map(|p| (b'P', p.to_string())));
        if let Some((position, query)) = e.fields.internal {
            fields.extend([(b'p', position.to_string()), (b'q', query)]);
        }
        fields.extend(e.fields.context.map(|c| (b'W', c)));
        fields.extend(e.fields.named);
        let fields = Some(Box::new(fields.into_iter().collect()));
        Self { detail: e.detail, hint: e.hint, fields, ..Self::error(e.sqlstate, e.message) }
    }
}

/// For statements of ours: their text means nothing to the client, nor does a position in it.
impl From<tokio_postgres::Error> for DdlError {
    fn from(e: tokio_postgres::Error) -> Self {
        match e.as_db_error() {
            Some(db) => Self { position: None, ..db.into() },
            None => Self::new("08006", format!("a node broke off: {e}")),
        }
    }
}

impl From<ConnectError> for DdlError {
    fn from(e: ConnectError) -> Self {
        Self::new("08001", e.to_string())
    }
}

impl From<CatalogError> for DdlError {
    fn from(e: CatalogError) -> Self {
        match e {
            CatalogError::Connect(e) => e.into(),
            CatalogError::Postgres(e) => e.into(),
            CatalogError::GivenUp(e) => Self::new("57P01", e.to_string()).hint("Connect anew."),
            e @ (CatalogError::Build(_) | CatalogError::Unknown(_) | CatalogError::NoNodes) => {
                Self::new("XX000", e.to_string())
            }
        }
    }
}
