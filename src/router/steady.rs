//! What in a statement would not give the same on every node.

use super::context::Context;
use super::facts::{Call, is_time_call};
use super::unordered::unordered;

/// What a statement may call that goes to several nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steady {
    /// What gives the same for the same rows on every node.
    Everywhere,
    /// What is computed for each row may differ from row to row as well.
    ByRow,
}

/// The first thing that the nodes would not agree on. What tells the transaction's time is none: they are
/// sent that of one of them (`Plan::times`).
pub fn unsteady(allowed: Steady, cx: Context<'_>) -> Option<String> {
    if cx.facts.times.in_from {
        return Some("the time in FROM".to_owned());
    }
    let told = |call: &&Call<'_>| !(call.is_builtin && is_time_call(call.node));
    let of_call = cx.facts.calls.iter().filter(told).find_map(|call| {
        let name = call.name.unwrap_or("?");
        let by_row = allowed == Steady::ByRow && cx.functions.is_of_the_row(name);
        (!by_row && !cx.functions.is_steady(name)).then(|| format!("function {name}"))
    });
    let of_column = || {
        let mut columns = cx.facts.columns.iter();
        columns.find_map(|c| match c.fields().iter().next_back().and_then(|f| f.as_str()) {
            Some(name @ ("ctid" | "tableoid" | "xmin" | "xmax" | "cmin" | "cmax")) => {
                Some(format!("system column {name}"))
            }
            _ => None,
        })
    };
    of_call
        .or_else(|| cx.facts.own_answer.map(str::to_owned))
        .or_else(of_column)
        .or_else(|| unordered(cx).map(str::to_owned))
}
