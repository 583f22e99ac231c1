//! The lines of an auth_hba_file, as PgBouncer reads them.
//!
//! What PgBouncer passes over is passed over here too. Where it knows something that pgshunt does not
//! (LDAP, user name maps), the clients it was for are rejected: passed over, they would come under a
//! later line, which may ask for less.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::config::{Address, AuthMethod, Names, Rule, RuleType};

/// Files of names that name each other in a ring end here.
const DEEPEST: usize = 10;

/// What becomes of a line.
#[derive(Debug)]
pub enum Line {
    Rule(Rule),
    /// The rule rejects whom the line was for.
    Rejects(Rule, String),
    PassedOver(String),
}

/// A line with its number, and without its comment.
#[derive(Debug)]
pub struct Found {
    pub number: usize,
    pub text: String,
    pub line: Line,
}

/// All lines that say something. `has_authority`: clients may show certificates.
pub fn read(path: &Path, has_authority: bool) -> std::io::Result<Vec<Found>> {
    let bytes = fs::read(path)?;
    let mut found = Vec::new();
    for (i, text) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        let line = match tokens(text) {
            Some(tokens) if tokens.is_empty() => continue,
            Some(tokens) => {
                Parser { tokens: &tokens, path }.line(has_authority).unwrap_or_else(|why| {
                    let why =
                        format!("{why}: PgBouncer passes over the line, and so was done here.");
                    Line::PassedOver(why)
                })
            }
            None => Line::PassedOver("A quote does not end.".into()),
        };
        found.push(Found { number: i + 1, text: text.trim().to_owned(), line });
    }
    Ok(found)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Comma,
    Word(String),
    Quoted(String),
}

/// `None`: a quote does not end.
fn tokens(line: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = line.trim_start();
    loop {
        if rest.is_empty() || rest.starts_with('#') {
            return Some(tokens);
        } else if let Some(behind) = rest.strip_prefix(',') {
            tokens.push(Token::Comma);
            rest = behind;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (text, behind) = super::ini::until_quote(quoted, '"')?;
            tokens.push(Token::Quoted(text));
            rest = behind;
        } else {
            let ends = |c: char| c.is_whitespace() || [',', '#', '"'].contains(&c);
            let (word, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
            tokens.push(Token::Word(word.to_owned()));
            rest = behind;
        }
        rest = rest.trim_start();
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    /// Files of names are beside it.
    path: &'a Path,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first.clone())
    }

    fn word(&mut self, what: &str) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            _ => Err(format!("It has no {what}")),
        }
    }

    fn line(mut self, has_authority: bool) -> Result<Line, String> {
        let kind = match self.word("type")?.as_str() {
            "local" => RuleType::Local,
            "host" => RuleType::Host,
            "hostssl" => RuleType::HostSsl,
            "hostnossl" => RuleType::HostNoSsl,
            other => return Err(format!("There is no type {other}")),
        };
        let database = Names(self.names("database", DEEPEST)?);
        let user = Names(self.names("user", DEEPEST)?);
        let address = if kind == RuleType::Local { None } else { Some(self.address()?) };
        let asked = self.word("method")?;
        let is_map = |t: &Token| matches!(t, Token::Word(o) if o.starts_with("map="));
        let method = match asked.as_str() {
            "scram-sha-256" => AuthMethod::ScramSha256,
            "md5" => AuthMethod::Md5,
            "password" => AuthMethod::Password,
            "trust" => AuthMethod::Trust,
            "cert" => AuthMethod::Cert,
            "peer" => AuthMethod::Peer,
            "reject" | "ldap" => AuthMethod::Reject,
            other => return Err(format!("PgBouncer has no method {other} in this file")),
        };
        let rule = Rule { kind, database, user, address, method };
        let lack = if asked == "ldap" {
            Some("LDAP is not spoken")
        } else if self.tokens.iter().any(is_map) {
            Some("There are no user name maps")
        } else if !self.tokens.is_empty() {
            return Err("It has options".into());
        } else if method == AuthMethod::Cert && !has_authority {
            Some("Certificates are asked for with client_tls_sslmode verify-ca or verify-full")
        } else {
            rule.problem()
        };
        Ok(match lack {
            None => Line::Rule(rule),
            Some(why) => {
                let why = format!("{why}: whom the line is for is rejected now.");
                Line::Rejects(Rule { method: AuthMethod::Reject, ..rule }, why)
            }
        })
    }

    /// Those of files are put in place of the files.
    fn names(&mut self, what: &str, depth: usize) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        loop {
            match self.next() {
                // Quotes make a name of a keyword, for pgshunt too.
                Some(Token::Quoted(name)) => names.push(format!("\"{name}\"")),
                Some(Token::Word(word)) => match word.strip_prefix('@') {
                    Some(file) => names.extend(self.file(what, file, depth)?),
                    None => names.push(plain(what, word)?),
                },
                Some(Token::Comma) | None => return Err(format!("It has no {what}")),
            }
            match self.tokens.split_first() {
                Some((Token::Comma, rest)) => self.tokens = rest,
                _ => return Ok(names),
            }
        }
    }

    fn file(&self, what: &str, name: &str, depth: usize) -> Result<Vec<String>, String> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(name);
        let Some(depth) = depth.checked_sub(1) else {
            return Err("Too many files of names include each other".into());
        };
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
        let mut names = Vec::new();
        for line in text.lines() {
            let tokens = tokens(line).ok_or("A quote does not end")?;
            if !tokens.is_empty() {
                names.extend(Parser { tokens: &tokens, path: &path }.names(what, depth)?);
            }
        }
        match names.is_empty() {
            true => Err(format!("{} has no names", path.display())),
            false => Ok(names),
        }
    }

    fn address(&mut self) -> Result<Address, String> {
        let text = self.word("address")?;
        if text == "all" {
            return Ok(Address::All);
        }
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text.as_str(), None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip} is no address"))?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match bits {
            Some(bits) => bits.parse().ok().filter(|p| *p <= most),
            None => prefix_of(ip, &self.word("mask")?),
        };
        let prefix = prefix.ok_or_else(|| format!("The mask of {ip} is none"))?;
        let beyond = match ip {
            IpAddr::V4(ip) => ip.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0,
            IpAddr::V6(ip) => ip.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0,
        };
        match beyond {
            true => Err(format!("{ip} has bits beyond its mask, so that no client has it")),
            false => Ok(Address::Net { ip, prefix }),
        }
    }
}

/// 8, of 255.0.0.0.
fn prefix_of(ip: IpAddr, mask: &str) -> Option<u8> {
    let (ones, all) = match (ip, mask.parse().ok()?) {
        (IpAddr::V4(_), IpAddr::V4(m)) => (m.to_bits().leading_ones(), m.to_bits().count_ones()),
        (IpAddr::V6(_), IpAddr::V6(m)) => (m.to_bits().leading_ones(), m.to_bits().count_ones()),
        _ => return None,
    };
    (ones == all).then(|| u8::try_from(ones).ok())?
}

/// A name without quotes, or a keyword that PgBouncer knows.
fn plain(what: &str, word: String) -> Result<String, String> {
    let keyword = what == "database" && matches!(word.as_str(), "samerole" | "samegroup");
    match keyword || word.starts_with(['+', '/']) {
        true => Err(format!("{word} is not known to PgBouncer")),
        false => Ok(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        let Some(tokens) = tokens(text) else { return "unended".into() };
        let parser = Parser { tokens: &tokens, path: Path::new("/nowhere/hba.conf") };
        match parser.line(true) {
            Ok(Line::Rule(rule)) => rule.to_string(),
            Ok(Line::Rejects(rule, why)) => format!("{rule}: {why}"),
            Ok(Line::PassedOver(why)) | Err(why) => format!("no: {why}"),
        }
    }

    #[test]
    fn what_pgbouncer_knows_is_carried_over() {
        for (text, rule) in [
            ("local all all peer # ours", "local all all peer"),
            ("host a,b , c ann 10.0.0.0/8 md5", "host a,b,c ann 10.0.0.0/8 md5"),
            ("host all all 10.0.0.0 255.0.0.0 trust", "host all all 10.0.0.0/8 trust"),
            ("hostnossl all all ::/0 reject", "hostnossl all all ::/0 reject"),
            ("hostssl sameuser \"all\" all cert", "hostssl sameuser \"all\" all cert"),
            (
                "host \"a b\",\"c\"\"d\" all ::1/128 scram-sha-256",
                "host \"a b\",\"c\"d\" all ::1/128 scram-sha-256",
            ),
        ] {
            assert_eq!(line(text), rule, "{text}");
        }
    }

    #[test]
    fn what_pgshunt_lacks_is_rejected() {
        for (text, wanted) in [
            ("hostssl all all all ldap ldapserver=x", "hostssl all all all reject: LDAP"),
            ("local all all peer map=admins", "local all all reject: There are no user name maps"),
            ("host all all 0.0.0.0/0 cert", "host all all 0.0.0.0/0 reject: method \"cert\""),
            ("host all all 0.0.0.0/0 peer", "host all all 0.0.0.0/0 reject: method \"peer\""),
        ] {
            assert!(line(text).starts_with(wanted), "{text}: {}", line(text));
        }
    }

    #[test]
    fn what_pgbouncer_passes_over_is_passed_over() {
        for text in [
            "nohost all all 10.0.0.0/8 md5",
            "host all all",
            "host all all samehost md5",
            "host all all db.example md5",
            "host all all 10.0.0.0/33 md5",
            "host all all 10.0.0.1/8 md5",
            "host all all 10.0.0.0 255.0.255.0 md5",
            "host all all 10.0.0.0 md5",
            "host all +staff 10.0.0.0/8 md5",
            "host samerole all 10.0.0.0/8 md5",
            "host /^a all 10.0.0.0/8 md5",
            "host @missing all 10.0.0.0/8 md5",
            "host all all 10.0.0.0/8 gss",
            "hostssl all all 10.0.0.0/8 md5 clientcert=verify-ca",
            "host all, 10.0.0.0/8 md5",
        ] {
            assert!(line(text).starts_with("no: "), "{text}: {}", line(text));
        }
        assert_eq!(line("host \"all"), "unended");
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read(text in "(host|local)? ?\\PC{0,60}") {
            let _ = line(&text);
        }
    }
}
