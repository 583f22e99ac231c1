//! Writers of the server messages that pgshunt answers itself, and the reader of errors.

use std::borrow::Cow;
use std::panic::Location;

use pgwire::messages::response::{ErrorResponse, NoticeResponse, TransactionStatus};
use serde::{Deserialize, Serialize};

use super::frame::{self, put};
use super::message;

/// Transaction status of ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Idle,
    Transaction,
    Failed,
}

impl Status {
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Transaction => b'T',
            Self::Failed => b'E',
        }
    }

    pub fn from_byte(b: u8) -> Option<Self> {
        match b {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Transaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

impl From<Status> for TransactionStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Idle => Self::Idle,
            Status::Transaction => Self::Transaction,
            Status::Failed => Self::Error,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Notice,
    Warning,
    Error,
    /// The connection is closed behind it.
    Fatal,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// PostgreSQL's functions by which clients tell errors of one SQLSTATE apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routine {
    RevalidateCachedQuery,
}

impl Routine {
    fn name(self) -> &'static str {
        match self {
            Self::RevalidateCachedQuery => "RevalidateCachedQuery",
        }
    }
}

/// Where in pgshunt a report was made. PostgreSQL always says it, and there are clients that rely on that.
/// It makes no difference between two reports.
#[derive(Debug, Clone, Copy)]
pub struct Origin(&'static Location<'static>);

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// An error or notice as the client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub sqlstate: Cow<'static, str>,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Further fields: of a node's report, or the routine it would come from if clients go by that.
    pub fields: Option<Box<Fields>>,
    pub origin: Origin,
}

/// Position, table, constraint and the like, each with its code in the protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(u8, String)>);

impl FromIterator<(u8, String)> for Fields {
    fn from_iter<T: IntoIterator<Item = (u8, String)>>(fields: T) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// A message of the client's that is malformed, but well framed.
impl From<super::ProtocolError> for Report {
    fn from(malformed: super::ProtocolError) -> Self {
        Self::error("08P01", malformed.0)
    }
}

impl Report {
    #[track_caller]
    pub fn error(sqlstate: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            severity: Severity::Error,
            sqlstate: sqlstate.into(),
            message,
            detail: None,
            hint: None,
            fields: None,
            origin: Origin(Location::caller()),
        }
    }

    /// As PostgreSQL words it.
    #[track_caller]
    pub fn no_statement(name: &[u8]) -> Self {
        let message = if name.is_empty() {
            "unnamed prepared statement does not exist".to_owned()
        } else {
            format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
        };
        Self::error("26000", message)
    }

    /// What a node said, in the node's words, as an error of the statement.
    #[track_caller]
    pub fn from_node(body: &[u8]) -> Self {
        let field =
            |code| report_field(body, code).map(|b| String::from_utf8_lossy(b).into_owned());
        let sqlstate = field(b'C').unwrap_or_else(|| "XX000".to_owned());
        Self {
            detail: field(b'D'),
            hint: field(b'H'),
            ..Self::error(sqlstate, field(b'M').unwrap_or_default())
        }
    }

    /// An error after which the connection is closed.
    #[track_caller]
    pub fn fatal(sqlstate: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Where it happened, as PostgreSQL words a CONTEXT.
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.fields.get_or_insert_default().0.push((b'W', context.into()));
        self
    }

    pub fn routine(mut self, routine: Routine) -> Self {
        let fields = self.fields.get_or_insert_default();
        fields.0.push((b'R', routine.name().to_owned()));
        self
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        match self.severity {
            Severity::Notice | Severity::Warning => {
                message::put(out, &NoticeResponse::new(self.all_fields()));
            }
            Severity::Error | Severity::Fatal => {
                message::put(out, &ErrorResponse::new(self.all_fields()));
            }
        }
    }

    fn all_fields(&self) -> Vec<(u8, String)> {
        // A NUL would end the field early and shift all that follows.
        let field = |code: u8, text: &str| (code, text.replace('\0', ""));
        let mut all = vec![
            field(b'S', self.severity.name()),
            field(b'V', self.severity.name()),
            field(b'C', &self.sqlstate),
            field(b'M', &self.message),
        ];
        all.extend(self.detail.iter().map(|d| field(b'D', d)));
        all.extend(self.hint.iter().map(|h| field(b'H', h)));
        let given = self.fields.as_ref().map_or(&[][..], |f| &f.0);
        all.extend(given.iter().map(|(code, text)| field(*code, text)));
        let Origin(at) = self.origin;
        let origin = [(b'F', at.file()), (b'L', &at.line().to_string()), (b'R', "pgshunt")];
        let missing = origin.iter().filter(|(code, _)| given.iter().all(|(c, _)| c != code));
        all.extend(missing.map(|(code, text)| field(*code, text)));
        all
    }
}

/// One field (`C` SQLSTATE, `M` message, ...) of an ErrorResponse or NoticeResponse body.
pub fn report_field(body: &[u8], code: u8) -> Option<&[u8]> {
    body.get(report_field_at(body, code)?)
}

/// Where the field is in the body.
pub fn report_field_at(body: &[u8], code: u8) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    while let [c, tail @ ..] = body.get(at..)? {
        if *c == 0 {
            return None;
        }
        let end = at + 1 + memchr::memchr(0, tail)?;
        if *c == code {
            return Some(at + 1..end);
        }
        at = end + 1;
    }
    None
}

pub fn put_ready(out: &mut Vec<u8>, status: Status) {
    put(out, b'Z', |b| b.push(status.byte()));
}

pub fn put_command_complete(out: &mut Vec<u8>, tag: &str) {
    put(out, b'C', |b| {
        b.extend_from_slice(tag.as_bytes());
        b.push(0);
    });
}

pub fn put_parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, b'S', |b| {
        b.extend_from_slice(name.as_bytes());
        b.push(0);
        b.extend_from_slice(value.as_bytes());
        b.push(0);
    });
}

/// ParseComplete `1`, BindComplete `2`, CloseComplete `3`, NoData `n`, EmptyQueryResponse `I`.
pub fn put_bare(out: &mut Vec<u8>, tag: u8) {
    put(out, tag, |_| {});
}

/// The answer of a function that returns void, but for what completes it.
pub fn put_void(out: &mut Vec<u8>, name: &str) {
    /// The number of `void`, its length, and no type modifier.
    const VOID: [u8; 10] = [0, 0, 0x08, 0xe6, 0, 4, 0xff, 0xff, 0xff, 0xff];
    put(out, b'T', |b| {
        b.extend_from_slice(&1_u16.to_be_bytes());
        b.extend_from_slice(name.as_bytes());
        b.push(0);
        b.extend_from_slice(&[0; 6]);
        b.extend_from_slice(&VOID);
        b.extend_from_slice(&[0; 2]);
    });
    put_data_row(out, [Some(&b""[..])].into_iter());
}

/// A DataRow of text values.
pub fn put_data_row<'a>(
    out: &mut Vec<u8>,
    values: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
) {
    put(out, b'D', |b| {
        b.extend_from_slice(&(values.len() as u16).to_be_bytes());
        for v in values {
            match v {
                Some(v) => {
                    b.extend_from_slice(&(v.len() as u32).to_be_bytes());
                    b.extend_from_slice(v);
                }
                None => b.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    });
}

/// The values of a DataRow body; `None` if it is malformed.
pub fn data_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut r = super::frontend::Reader(body);
    let n = usize::try_from(r.i16().ok()?).ok()?;
    let mut values = Vec::with_capacity(n.min(64));
    for _ in 0..n {
        let len = r.i32().ok()?;
        values.push(if len < 0 { None } else { Some(r.bytes(len as usize).ok()?) });
    }
    Some(values)
}

const _: () = assert!(frame::HEADER == 5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back() {
        let mut out = Vec::new();
        Report::error("0A000", "no\0pe").hint("do that").put(&mut out);
        let body = &out[frame::HEADER..];
        assert_eq!(report_field(body, b'C'), Some(&b"0A000"[..]));
        assert_eq!(report_field(body, b'V'), Some(&b"ERROR"[..]));
        assert_eq!(report_field(body, b'M'), Some(&b"nope"[..]));
        assert_eq!(report_field(body, b'H'), Some(&b"do that"[..]));
        assert_eq!(report_field(body, b'D'), None);
        assert_eq!(report_field(body, b'F'), Some(file!().as_bytes()));
        let line = report_field(body, b'L').and_then(|l| std::str::from_utf8(l).ok()?.parse().ok());
        assert!(line.is_some_and(|l: u32| l > 1 && l < line!()), "{line:?}");
        assert_eq!(report_field(body, b'R'), Some(&b"pgshunt"[..]));
        assert_eq!(report_field(b"Cunterminated", b'M'), None);
    }

    #[test]
    fn data_rows_read_back() {
        let mut out = Vec::new();
        put_data_row(&mut out, [Some(&b"1"[..]), None].into_iter());
        assert_eq!(data_row(&out[5..]), Some(vec![Some(&b"1"[..]), None]));
        assert_eq!(data_row(&out[5..out.len() - 1]), None);
    }
}
