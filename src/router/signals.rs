//! `pg_terminate_backend()` and `pg_cancel_backend()` of a process id that pgshunt made up.
//!
//! BackendKeyData gives a client an id of pgshunt's own, above all that a system gives. A node knows no such
//! process: it would warn and say false, and the client it means goes on. So that is refused.

use super::among;
use super::constant::constant;
use super::context::Context;
use super::place::{Given, Place, Values, by_row, place};
use super::plan::{KeySource, Plan};
use crate::hash::{KeyType, KeyValue};
use crate::topology::RoutingTable;
use crate::wire::FIRST_OWN_PID;
use crate::wire::backend::Report;

/// The process ids, constants and parameters, that a query signals.
pub fn signalled(cx: Context<'_>) -> impl Iterator<Item = KeySource> {
    let signals = cx.facts.calls.iter().filter(|call| {
        matches!(call.schema, None | Some("pg_catalog"))
            && matches!(call.name, Some("pg_terminate_backend" | "pg_cancel_backend"))
    });
    let pids = signals.filter_map(|call| call.node.args().iter().next());
    pids.filter_map(move |pid| constant(pid, KeyType::Int4, cx.text, cx.literals))
}

/// Finds the place of a plan's statements.
///
/// # Errors
/// As [`place`]; or they signal a client of pgshunt's.
pub fn place_of(plan: &Plan, values: &dyn Values, routes: &RoutingTable) -> Result<Place, Report> {
    refuse(plan, values)?;
    match (place(&plan.kind, values, routes), &plan.rows) {
        (Err(_), Some(rows)) => by_row(&plan.kind, rows, values, routes),
        (place, _) => Ok(among::narrowed(place?, plan, values, routes)),
    }
}

fn refuse(plan: &Plan, values: &dyn Values) -> Result<(), Report> {
    match plan.signals.iter().any(|pid| is_own(pid, values)) {
        false => Ok(()),
        true => Err(Report::error("0A000", "a client of pgshunt cannot be signalled by this function")
            .detail("The process id is pgshunt's own, as BackendKeyData gives it: no server process has it.")
            .hint(
                "Send a CancelRequest, or use KILL_CLIENT in pgshunt's console; pg_stat_activity and \
                 pg_backend_pid() tell the ids of server processes.",
            )),
    }
}

fn is_own(pid: &KeySource, values: &dyn Values) -> bool {
    let int = KeyType::Int8;
    let given = |given: Option<Given<'_>>, negative: bool| match given {
        Some(Given::Digits(digits)) => {
            int.from_integer(negative, digits).ok().as_ref().and_then(number)
        }
        Some(Given::Text(text)) if !negative => int.from_text(&text).ok().as_ref().and_then(number),
        // Undeclared it is what the function takes, an integer.
        Some(Given::Param { declared: 0, binary, bytes }) => {
            KeyType::Int4.from_param(0, binary, bytes).ok().as_ref().and_then(number)
        }
        Some(Given::Param { declared, binary, bytes }) => {
            int.from_param(declared, binary, bytes).ok().as_ref().and_then(number)
        }
        _ => None,
    };
    let pid = match pid {
        KeySource::Integer { negative, digits } => given(Some(Given::Digits(digits)), *negative),
        KeySource::Text(text) => given(Some(Given::Text(text.into())), false),
        KeySource::Literal { index, negative } => given(values.literal(*index), *negative),
        KeySource::Param { index, .. } => given(values.param(*index), false),
        KeySource::Null => None,
    };
    pid.is_some_and(|pid| pid >= i64::from(FIRST_OWN_PID))
}

fn number(value: &KeyValue<'_>) -> Option<i64> {
    match value {
        KeyValue::Int(n) => Some(*n),
        KeyValue::Bytes(_) | KeyValue::Uuid(_) | KeyValue::Numeric(_) => None,
    }
}
