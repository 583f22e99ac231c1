//! Plays `scripts.txt`.
//!
//! `=== title` begins a conversation. A line is what a client says at once: `A` if no other is named
//! (`B: Query ...`). Its answer is heard up to as many ReadyForQuery as the line has Query, Sync and
//! FunctionCall; `[2]` at its beginning says another number, `{3}` a number of messages, `[end]` up
//! to the end of the connection. `login A DateStyle=German` opens a client with parameters. HOME and
//! AWAY stand for a key on the home node and one on the other. `PGSHUNT_PROTOCOL_SCRIPTS` names another
//! file to be played instead.

use std::collections::BTreeMap;

use super::talk::Until;
use super::{Both, Pair};

const SCRIPTS: &str = include_str!("scripts.txt");

pub fn run(pair: &Pair) {
    let other = std::env::var("PGSHUNT_PROTOCOL_SCRIPTS").ok();
    let other = other.map(|path| std::fs::read_to_string(path).expect("the scripts"));
    let mut wrong = Vec::new();
    for script in other.as_deref().unwrap_or(SCRIPTS).split("=== ").skip(1) {
        if let Err(difference) = play(pair, script) {
            wrong.push(difference);
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
}

fn play(pair: &Pair, script: &str) -> Result<(), String> {
    let mut clients: BTreeMap<String, Both> = BTreeMap::new();
    let mut lines = script.lines();
    let title = lines.next().unwrap_or_default();
    for line in lines.filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let line = line
            .replace("AWAY", &pair.keys[1][0].to_string())
            .replace("HOME", &pair.keys[0][0].to_string());
        if let Some(login) = line.strip_prefix("login ") {
            let mut words = login.split(' ');
            let who = words.next().unwrap_or("A").to_owned();
            let parameters: Vec<_> = words
                .map(|w| w.split_once('=').expect("name=value"))
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect();
            clients.insert(who, Both::open(pair, &parameters));
            continue;
        }
        let (who, said) = match line.split_once(": ") {
            Some((who, said)) if who.len() == 1 => (who, said),
            _ => ("A", line.as_str()),
        };
        let (until, said) = until(said);
        let client = clients.entry(who.to_owned()).or_insert_with(|| Both::open(pair, &[]));
        let heard = client.say(said, until).map_err(|e| format!("{title}\n{line}\n{e}"))?;
        if heard.last().is_some_and(|m| m.starts_with('(')) {
            return Err(format!("{title}\n{line}\nneither says so much: {}", heard.join(" | ")));
        }
    }
    Ok(())
}

fn until(said: &str) -> (Until, &str) {
    let marked = |open, close| {
        let (mark, rest) = said.strip_prefix(open)?.split_once(close)?;
        Some((mark, rest.trim_start()))
    };
    match (marked('[', ']'), marked('{', '}')) {
        (Some(("end", rest)), _) => (Until::End, rest),
        (Some((n, rest)), _) => (Until::Ready(n.parse().unwrap()), rest),
        (_, Some((n, rest))) => (Until::Messages(n.parse().unwrap()), rest),
        (None, None) => {
            let ends = |m: &&str| {
                let kind = m.trim().split(' ').next();
                matches!(kind, Some("Query" | "Sync" | "FunctionCall"))
            };
            (Until::Ready(said.split(" | ").filter(ends).count()), said)
        }
    }
}
