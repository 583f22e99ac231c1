//! SQL's `EXECUTE name` of a statement that the client prepared by the protocol.
//!
//! To the client both are one namespace. On server connections such a statement bears another name,
//! and may not be there yet: it is prepared first, and called by that name.

use std::rc::Rc;

use super::{Env, Io, Session, Statement};
use crate::router::plan::{Control, Kind, Plan};
use crate::wire::backend::Report;

impl Session {
    /// The statement of the protocol that an EXECUTE names.
    pub(super) fn named_by_execute(&self, control: &Control) -> Option<&Rc<Statement>> {
        match control {
            Control::Leaves(traces) => self.statements.get(traces.executes.as_ref()?.as_bytes()),
            _ => None,
        }
    }

    fn executed(&self, plan: &Plan) -> Option<&Rc<Statement>> {
        self.named_by_execute(plan.single()?)
    }

    /// Why an EXECUTE cannot be carried out, if so: what it leads to is not looked at again.
    pub(super) fn refuses_execute(&self, plan: &Plan) -> Option<Report> {
        let inner = &self.executed(plan)?.plan;
        let placeless = matches!(inner.kind, Kind::Home | Kind::Any);
        let harmless = matches!(inner.single(), Some(Control::None | Control::Pure));
        (!placeless || !harmless).then(no_execute)
    }

    /// The statement as the node must read it.
    pub(super) fn as_node_reads(
        &mut self,
        s: &Rc<Statement>,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) -> Rc<Statement> {
        let Some(inner) = self.executed(&s.plan).cloned() else { return s.clone() };
        let Some((before, after)) = around_name(&s.text) else { return s.clone() };
        let name = self.known(&inner, false, env, io);
        let text = [before, &name, after].concat();
        Rc::new(Statement::new(&text, &s.oids, s.plan.clone()))
    }
}

pub(super) fn no_execute() -> Report {
    Report::error("0A000", "EXECUTE of this statement, prepared by the protocol, is not supported")
        .hint("Bind and execute it by the protocol.")
}

/// The text before and behind the name in `EXECUTE name ...`.
fn around_name(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = behind_space(text);
    let (word, rest) = rest.split_at_checked(b"execute".len())?;
    if !word.eq_ignore_ascii_case(b"execute") {
        return None;
    }
    let rest = behind_space(rest);
    let before = text.len() - rest.len();
    let length = match rest.first()? {
        b'"' => {
            let mut at = 1;
            loop {
                at += memchr::memchr(b'"', rest.get(at..)?)? + 1;
                if rest.get(at) != Some(&b'"') {
                    break at;
                }
                at += 1;
            }
        }
        _ => {
            let in_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | 0x80..);
            rest.iter().position(|b| !in_name(b)).unwrap_or(rest.len())
        }
    };
    // U&"..." is a name too, whose end is not where it seems.
    let after = rest.get(length..)?;
    (length > 0 && !after.starts_with(b"&")).then(|| (&text[..before], after))
}

/// Behind white space and comments.
fn behind_space(mut text: &[u8]) -> &[u8] {
    loop {
        let next = match text {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, rest @ ..] => Some(rest),
            [b'-', b'-', rest @ ..] => {
                let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
                Some(end.and_then(|at| rest.get(at..)).unwrap_or_default())
            }
            [b'/', b'*', rest @ ..] => behind_comment(rest),
            _ => None,
        };
        match next {
            Some(rest) => text = rest,
            None => return text,
        }
    }
}

/// Behind the end of a comment, which may hold others; `None` when it has no end.
fn behind_comment(mut text: &[u8]) -> Option<&[u8]> {
    let mut depth = 1;
    while depth > 0 {
        match text {
            [b'*', b'/', rest @ ..] => (depth, text) = (depth - 1, rest),
            [b'/', b'*', rest @ ..] => (depth, text) = (depth + 1, rest),
            [_, rest @ ..] => text = rest,
            [] => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::around_name;

    #[test]
    fn the_name_is_found() {
        let renamed = |text: &str| {
            let (before, after) = around_name(text.as_bytes())?;
            Some([before, b"X", after].concat()).map(|t| String::from_utf8(t).unwrap())
        };
        for (text, wanted) in [
            ("EXECUTE a", Some("EXECUTE X")),
            ("execute\ta;", Some("execute\tX;")),
            ("execute ab_1$(1, 'a')", Some("execute X(1, 'a')")),
            ("execute\"a \"\"b\"\"\"(1)", Some("executeX(1)")),
            (
                " -- c\n /* a /* b */ */ execute /**/ ü -- d",
                Some(" -- c\n /* a /* b */ */ execute /**/ X -- d"),
            ),
            ("execute U&\"a\"", None),
            ("execute \"a", None),
            ("execute", None),
            ("/* execute a", None),
            ("select a", None),
        ] {
            assert_eq!(renamed(text).as_deref(), wanted, "{text}");
        }
    }
}
