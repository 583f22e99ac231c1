//! The words a command is made of: words, quoted ones, symbols. Comments are passed over.

/// Why a text is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Without quotes; keywords are compared without case.
    Word(String),
    /// In single or double quotes.
    Quoted(String),
    Symbol(char),
}

pub fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, r)| r);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, r)| r);
        } else if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let (value, after) = quoted(rest, quote)?;
            tokens.push(Token::Quoted(value));
            rest = after;
        } else if let Some(c) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$');
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            if end > 0 {
                let (word, behind) = rest.split_at(end);
                tokens.push(Token::Word(word.to_owned()));
                rest = behind;
            } else {
                tokens.push(Token::Symbol(c));
                rest = rest.split_at(c.len_utf8()).1;
            }
        } else {
            return Ok(tokens);
        }
    }
}

/// The quoted text at the start, its doubled quotes made single, and what is behind it.
fn quoted(text: &str, quote: char) -> Result<(String, &str), ParseError> {
    let mut value = String::new();
    let mut chars = text.chars();
    chars.next();
    while let Some(c) = chars.next() {
        if c != quote {
            value.push(c);
        } else if let Some(behind) = chars.as_str().strip_prefix(quote) {
            value.push(quote);
            chars = behind.chars();
        } else {
            return Ok((value, chars.as_str()));
        }
    }
    Err(ParseError {
        sqlstate: "42601",
        message: "a quoted string does not end".into(),
        hint: format!("Close it with {quote}."),
    })
}
