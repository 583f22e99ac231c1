//! What a DO block leaves on the server connection, by the words in it.
//!
//! The block's language is not understood. Words that a statement begins with are looked for, in
//! its strings too, as EXECUTE may run them; what a statement does that is put together otherwise,
//! or by a function that the block calls, is not seen.

use super::functions::{ADVISORY_LOCK, pins};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a [u8]),
    Other(u8),
}

impl Token<'_> {
    fn is(self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w.eq_ignore_ascii_case(word.as_bytes()))
    }

    fn is_one_of(self, words: &[&str]) -> bool {
        words.iter().any(|w| self.is(w))
    }

    /// What comes behind this may be a statement: in the block, or in a string of it.
    fn ends_something(self) -> bool {
        matches!(self, Self::Other(b';' | b'\'' | b'$' | b'(' | b'>'))
            || self.is_one_of(&["begin", "then", "else", "loop"])
    }
}

/// The reason to keep the connection, if there is one. `text` is the whole DO statement.
pub fn pin(text: &[u8]) -> Option<&'static str> {
    let tokens = tokens(text);
    let reasons = || tokens.iter().enumerate().filter_map(|(at, _)| reason(&tokens, at));
    // What a failing statement leaves behind comes before all else.
    reasons().find(|why| *why == ADVISORY_LOCK).or_else(|| reasons().next())
}

fn reason(tokens: &[Token<'_>], at: usize) -> Option<&'static str> {
    let Token::Word(word) = *tokens.get(at)? else { return None };
    let before = at.checked_sub(1).and_then(|i| tokens.get(i)).copied();
    let after = tokens.get(at + 1).copied();
    let begins = before.is_none_or(Token::ends_something);
    let this = Token::Word(word);
    let follows = |words: &[&str]| before.is_some_and(|t| t.is_one_of(words));
    if begins && this.is("set") {
        let local = |t: Token<'_>| t.is_one_of(&["local", "constraints", "transaction"]);
        return (!after.is_some_and(local)).then_some("SET in a DO block");
    }
    if begins && this.is("listen") {
        return Some("LISTEN");
    }
    if begins && this.is("prepare") && !after.is_some_and(|t| t.is("transaction")) {
        return Some("PREPARE");
    }
    let temporary = this.is_one_of(&["temp", "temporary"])
        && follows(&["create", "replace", "into", "local", "global"]);
    if temporary || word.get(..7).is_some_and(|w| w.eq_ignore_ascii_case(b"pg_temp")) {
        return Some("a temporary object");
    }
    if this.is("hold") && follows(&["with"]) {
        return Some("a cursor WITH HOLD");
    }
    if after != Some(Token::Other(b'(')) {
        return None;
    }
    let why = std::str::from_utf8(word).ok().and_then(|w| pins(&w.to_ascii_lowercase()))?;
    (!(this.is("set_config") && is_local_call(tokens, at))).then_some(why)
}

/// `set_config(..., true)`
fn is_local_call(tokens: &[Token<'_>], at: usize) -> bool {
    let rest = tokens.get(at..).unwrap_or_default();
    let end = rest.iter().position(|t| *t == Token::Other(b')'));
    let last = end.and_then(|e| e.checked_sub(1)).and_then(|i| rest.get(i));
    last.is_some_and(|t| t.is("true"))
}

/// Words, and whatever else is neither blank nor a comment.
fn tokens(text: &[u8]) -> Vec<Token<'_>> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let skipped = if rest.starts_with(b"--") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            rest.windows(2).skip(2).position(|w| w == b"*/").map_or(rest.len(), |at| at + 4)
        } else if is_word(first) {
            let end = rest.iter().position(|&b| !is_word(b)).unwrap_or(rest.len());
            let (word, _) = rest.split_at(end);
            tokens.push(Token::Word(word));
            end
        } else {
            if !first.is_ascii_whitespace() {
                tokens.push(Token::Other(first));
            }
            1
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_block_leaves_is_found() {
        let set = Some("SET in a DO block");
        for (body, why) in [
            ("BEGIN SET work_mem = '1MB'; END", set),
            ("BEGIN IF x THEN set enable_seqscan = 0; END IF; END", set),
            ("BEGIN -- the plan\n  /* ; */ SET enable_seqscan = 0; END", set),
            ("BEGIN EXECUTE 'SET search_path = a'; END", set),
            ("BEGIN EXECUTE format('set role %I', r); END", set),
            ("<<a>> SET x.y = 1;", set),
            ("BEGIN SET LOCAL work_mem = '1MB'; SET CONSTRAINTS ALL DEFERRED; END", None),
            (
                "BEGIN UPDATE t SET a = 1; INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 2; END",
                None,
            ),
            ("BEGIN UPDATE \"t\" SET a = 1; ALTER TABLE t ALTER a SET NOT NULL; END", None),
            ("BEGIN -- SET x = 1\n NULL; END", None),
            ("BEGIN PERFORM set_config('a.b', 'c', false); END", Some("set_config()")),
            ("BEGIN PERFORM SET_CONFIG('a.b', 'c', true); END", None),
            ("BEGIN PERFORM pg_advisory_lock(1); END", Some(ADVISORY_LOCK)),
            ("BEGIN SET x.y = 1; PERFORM pg_try_advisory_lock (1); END", Some(ADVISORY_LOCK)),
            ("BEGIN PERFORM pg_advisory_xact_lock(1); END", None),
            ("BEGIN CREATE TEMP TABLE t (a int); END", Some("a temporary object")),
            (
                "BEGIN EXECUTE 'create local temporary view v as select 1'; END",
                Some("a temporary object"),
            ),
            ("BEGIN DROP TABLE pg_temp.t; END", Some("a temporary object")),
            ("BEGIN SELECT temp FROM weather; END", None),
            ("BEGIN LISTEN c; END", Some("LISTEN")),
            ("BEGIN EXECUTE 'PREPARE p AS SELECT 1'; END", Some("PREPARE")),
            (
                "BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1'; END",
                Some("a cursor WITH HOLD"),
            ),
            ("BEGIN NULL; END /* open", None),
            ("", None),
        ] {
            for text in [format!("DO $$ {body} $$"), format!("DO $x$\n{body}$x$ LANGUAGE plpgsql")]
            {
                assert_eq!(pin(text.as_bytes()), why, "{text}");
            }
        }
        assert_eq!(pin(b"DO 'BEGIN SET a.b = 1; END'"), set);
    }
}
