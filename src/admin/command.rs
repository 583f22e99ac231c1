//! The console's language: a handful of commands, words without case, a `;` behind them.

use std::fmt;

use crate::topology::{MoveId, ShardId};

/// What PAUSE and RESUME are about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    All,
    Shard(ShardId),
    Node(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Shard(id) => write!(f, "shard {id}"),
            Self::Node(name) => write!(f, "node \"{name}\""),
        }
    }
}

macro_rules! shows {
    ($($variant:ident = $word:literal $help:literal),* $(,)?) => {
        /// The tables of SHOW.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Show { $($variant),* }

        impl Show {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),* }
            }
        }
    };
}

shows! {
    Nodes = "NODES" "the nodes, what they serve, and our connections to them",
    Tables = "TABLES" "the distributed tables",
    Shards = "SHARDS" "the shards and who serves them",
    Placements = "PLACEMENTS" "every copy of every shard",
    Moves = "MOVES" "the moves, running and past",
    Clients = "CLIENTS" "the clients connected",
    Servers = "SERVERS" "the connections to nodes",
    Pools = "POOLS" "the pools and their queues",
    Stats = "STATS" "what was done, in total and per second since the start",
    StatsTotals = "STATS_TOTALS" "what was done in total",
    Databases = "DATABASES" "the databases clients may name",
    Lists = "LISTS" "how many there are of what",
    State = "STATE" "active or paused",
    Config = "CONFIG" "the configuration and the cluster's settings",
    Version = "VERSION" "the version",
    Help = "HELP" "this",
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Show(Show),
    /// A parameter drivers ask for.
    ShowParameter(&'static str, &'static str),
    Set {
        name: String,
        value: String,
    },
    /// A session parameter that drivers set and the console has no use for.
    SetIgnored,
    AddNode {
        name: String,
        host: String,
        port: u16,
    },
    MoveShard {
        shard: ShardId,
        to: String,
        wait: bool,
    },
    RollbackMove {
        id: Option<MoveId>,
        wait: bool,
    },
    CancelMove(Option<MoveId>),
    FinishMove(Option<MoveId>),
    Pause(Target),
    Resume(Target),
    Reload,
    /// `SELECT 1`, by which tools ask whether anybody is there.
    SelectOne,
    SelectVersion,
    /// BEGIN, COMMIT, ROLLBACK, DISCARD ALL, ...: answered with this tag, and nothing else.
    Nothing(&'static str),
}

/// Why a text is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: String,
}

/// How each command is written, for HELP and for hints.
pub const SYNTAX: &[&str] = &[
    "ADD NODE name 'host:port'",
    "MOVE SHARD id TO node [NOWAIT]",
    "ROLLBACK MOVE [id] [NOWAIT]",
    "CANCEL MOVE [id]",
    "FINISH MOVE [id]",
    "PAUSE [SHARD id | NODE name]",
    "RESUME [SHARD id | NODE name]",
    "SET name = value",
    "RELOAD",
];

const PARAMETERS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO"),
    ("timezone", "GMT"),
    ("server_version", super::COMPATIBLE),
    ("search_path", ""),
];

/// What drivers set without asking whether it makes sense here.
const IGNORED: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction",
];

/// Parses a query: commands separated by `;`. None at all is the empty query.
pub fn parse(text: &str) -> Result<Vec<Command>, ParseError> {
    let tokens = tokens(text)?;
    tokens
        .split(|t| *t == Token::Symbol(';'))
        .filter(|part| !part.is_empty())
        .map(|part| Parser { rest: part, all: part }.command())
        .collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Without quotes; keywords are compared without case.
    Word(String),
    /// In single or double quotes.
    Quoted(String),
    Symbol(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
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
                tokens.push(Token::Word(rest[..end].to_owned()));
                rest = &rest[end..];
            } else {
                tokens.push(Token::Symbol(c));
                rest = &rest[c.len_utf8()..];
            }
        } else {
            return Ok(tokens);
        }
    }
}

/// The quoted text at the start, its doubled quotes made single, and what is behind it.
fn quoted(text: &str, quote: char) -> Result<(String, &str), ParseError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((i, c)) = chars.next() {
        if c != quote {
            value.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Ok((value, &text[i + c.len_utf8()..]));
        }
    }
    Err(ParseError {
        sqlstate: "42601",
        message: "a quoted string does not end".into(),
        hint: format!("Close it with {quote}."),
    })
}

struct Parser<'a> {
    rest: &'a [Token],
    all: &'a [Token],
}

impl<'a> Parser<'a> {
    fn command(mut self) -> Result<Command, ParseError> {
        let parsed = self.try_command()?;
        match (parsed, self.rest) {
            (Some(command), []) => Ok(command),
            (Some(_), [extra, ..]) => {
                let extra = match extra {
                    Token::Word(w) | Token::Quoted(w) => w.clone(),
                    Token::Symbol(c) => c.to_string(),
                };
                Err(self.syntax(format!("nothing is expected at \"{extra}\"")))
            }
            (None, _) => Err(self.unknown()),
        }
    }

    /// `None`: no command begins like this.
    fn try_command(&mut self) -> Result<Option<Command>, ParseError> {
        let Some(verb) = self.word() else { return Ok(None) };
        Ok(Some(match verb.to_ascii_uppercase().as_str() {
            "SHOW" => return self.show(),
            "SELECT" => return Ok(self.select()),
            "SET" => self.set()?,
            "ADD" if self.keyword("NODE") => {
                let name = self.name("the node's name")?;
                let place = self.name("the node's 'host:port'")?;
                let (host, port) = self.place(&place)?;
                Command::AddNode { name, host, port }
            }
            "MOVE" if self.keyword("SHARD") => {
                let shard = self.number("the shard's id")?;
                if !self.keyword("TO") {
                    return Err(self.syntax("TO and the target node are missing".into()));
                }
                let to = self.name("the target node")?;
                Command::MoveShard { shard: ShardId(shard), to, wait: self.wait() }
            }
            "ROLLBACK" if self.keyword("MOVE") => {
                Command::RollbackMove { id: self.move_id()?, wait: self.wait() }
            }
            "CANCEL" if self.keyword("MOVE") => Command::CancelMove(self.move_id()?),
            "FINISH" if self.keyword("MOVE") => Command::FinishMove(self.move_id()?),
            "PAUSE" => Command::Pause(self.target()?),
            "RESUME" => Command::Resume(self.target()?),
            "RELOAD" => Command::Reload,
            "BEGIN" | "START" => self.nothing("BEGIN"),
            "COMMIT" | "END" => self.nothing("COMMIT"),
            "ROLLBACK" | "ABORT" => self.nothing("ROLLBACK"),
            "DISCARD" => self.nothing("DISCARD ALL"),
            "DEALLOCATE" => self.nothing("DEALLOCATE ALL"),
            "RESET" => self.nothing("RESET"),
            _ => return Ok(None),
        }))
    }

    fn show(&mut self) -> Result<Option<Command>, ParseError> {
        let Some(what) = self.word() else {
            return Err(self.syntax("SHOW what?".into()));
        };
        if let Some(show) = Show::ALL.iter().find(|s| s.word().eq_ignore_ascii_case(what)) {
            return Ok(Some(Command::Show(*show)));
        }
        // SHOW TRANSACTION ISOLATION LEVEL, SHOW TIME ZONE.
        let (what, more) = match what.to_ascii_lowercase().as_str() {
            "transaction" => ("transaction_isolation".to_owned(), 2),
            "time" => ("timezone".to_owned(), 1),
            other => (other.to_owned(), 0),
        };
        let parameter = PARAMETERS.iter().find(|(name, _)| *name == what);
        if parameter.is_some() {
            self.rest = self.rest.get(more..).unwrap_or_default();
        }
        Ok(parameter.map(|(name, value)| Command::ShowParameter(name, value)))
    }

    fn select(&mut self) -> Option<Command> {
        let symbols = |p: &mut Self| p.symbol('(') && p.symbol(')');
        match self.word()? {
            "1" => Some(Command::SelectOne),
            w if w.eq_ignore_ascii_case("version") && symbols(self) => Some(Command::SelectVersion),
            _ => None,
        }
    }

    fn set(&mut self) -> Result<Command, ParseError> {
        for scope in ["SESSION", "LOCAL"] {
            // SET SESSION CHARACTERISTICS ... is one of the ignored.
            if self.keyword(scope) && self.rest.is_empty() {
                return Err(self.syntax("SET what?".into()));
            }
        }
        let name = self.name("the setting's name")?.to_ascii_lowercase();
        let name = name.strip_prefix("pgshunt.").unwrap_or(&name).to_owned();
        if IGNORED.contains(&name.as_str())
            || matches!(name.as_str(), "characteristics" | "names" | "time")
        {
            self.rest = &[];
            return Ok(Command::SetIgnored);
        }
        if !self.symbol('=') && !self.keyword("TO") {
            return Err(self.syntax("= and a value are missing".into()));
        }
        Ok(Command::Set { name, value: self.name("the value")? })
    }

    fn nothing(&mut self, tag: &'static str) -> Command {
        self.rest = &[];
        Command::Nothing(tag)
    }

    fn target(&mut self) -> Result<Target, ParseError> {
        if self.keyword("SHARD") {
            Ok(Target::Shard(ShardId(self.number("the shard's id")?)))
        } else if self.keyword("NODE") {
            Ok(Target::Node(self.name("the node's name")?))
        } else {
            Ok(Target::All)
        }
    }

    fn wait(&mut self) -> bool {
        let nowait = self.keyword("NOWAIT");
        let _ = self.keyword("WAIT");
        !nowait
    }

    fn move_id(&mut self) -> Result<Option<MoveId>, ParseError> {
        match self.rest {
            [Token::Word(w), ..] if w.starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(Some(MoveId(self.number("the move's id")?)))
            }
            _ => Ok(None),
        }
    }

    fn place(&self, text: &str) -> Result<(String, u16), ParseError> {
        // [::1]:5432 is how an IPv6 address is written.
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
            Some((host.to_owned(), port.parse().ok().filter(|p| *p > 0)?))
        });
        parts
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(|| self.syntax(format!("\"{text}\" is not host:port")))
    }

    fn word(&mut self) -> Option<&'a str> {
        let (first, rest) = self.rest.split_first()?;
        let Token::Word(word) = first else { return None };
        self.rest = rest;
        Some(word)
    }

    fn keyword(&mut self, wanted: &str) -> bool {
        match self.rest {
            [Token::Word(w), rest @ ..] if w.eq_ignore_ascii_case(wanted) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn symbol(&mut self, wanted: char) -> bool {
        match self.rest {
            [Token::Symbol(c), rest @ ..] if *c == wanted => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn name(&mut self, what: &str) -> Result<String, ParseError> {
        match self.rest {
            [Token::Word(w) | Token::Quoted(w), rest @ ..] => {
                self.rest = rest;
                Ok(w.clone())
            }
            _ => Err(self.syntax(format!("{what} is missing"))),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, ParseError> {
        let text = self.name(what)?;
        text.parse().map_err(|_| self.syntax(format!("{what} cannot be \"{text}\"")))
    }

    fn written(&self) -> String {
        let words = self.all.iter().map_while(|t| match t {
            Token::Word(w) => Some(w.to_ascii_uppercase()),
            Token::Quoted(_) | Token::Symbol(_) => None,
        });
        words.take(2).collect::<Vec<_>>().join(" ")
    }

    fn syntax(&self, message: String) -> ParseError {
        let written = self.written();
        let hint = match SYNTAX.iter().find(|s| s.starts_with(written.as_str())) {
            Some(syntax) => format!("Write {syntax}"),
            None => "SHOW HELP lists the commands.".to_owned(),
        };
        ParseError { sqlstate: "42601", message: format!("syntax error: {message}"), hint }
    }

    fn unknown(&self) -> ParseError {
        let written = self.written();
        if matches!(
            written.split(' ').next(),
            Some("SELECT" | "INSERT" | "UPDATE" | "DELETE" | "WITH" | "CREATE")
        ) {
            return ParseError {
                sqlstate: "0A000",
                message: "this is pgshunt's console, which does not run SQL".into(),
                hint: "Connect to your database for SQL. SHOW HELP lists the console's commands."
                    .into(),
            };
        }
        // The head of each command: its words before anything variable.
        let heads =
            Show::ALL.iter().map(|s| format!("SHOW {}", s.word())).chain(SYNTAX.iter().map(|s| {
                let fixed = |w: &&str| w.chars().all(|c| c.is_ascii_uppercase());
                s.split(' ').take_while(fixed).take(2).collect::<Vec<_>>().join(" ")
            }));
        let nearest = heads
            .map(|head| (strsim::damerau_levenshtein(&head, &written), head))
            .min()
            .filter(|(distance, head)| *distance * 2 < head.len());
        ParseError {
            sqlstate: "42601",
            message: format!("invalid command '{written}', use SHOW HELP;"),
            hint: match nearest {
                Some((_, head)) => format!("Did you mean {head}?"),
                None => "SHOW HELP lists the commands.".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command {
        let mut all = parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn commands_are_read_without_case_and_with_quotes() {
        assert_eq!(one("show Nodes;"), Command::Show(Show::Nodes));
        assert_eq!(
            one("add node \"no de\" 'db.example:5433' ; "),
            Command::AddNode { name: "no de".into(), host: "db.example".into(), port: 5433 }
        );
        assert_eq!(
            one("ADD NODE n '[::1]:5432'"),
            Command::AddNode { name: "n".into(), host: "::1".into(), port: 5432 }
        );
        let moved = |wait| Command::MoveShard { shard: ShardId(1), to: "node3".into(), wait };
        assert_eq!(one("MOVE SHARD 1 TO node3"), moved(true));
        assert_eq!(one("move shard 1 to 'node3' nowait"), moved(false));
        assert_eq!(one("ROLLBACK MOVE"), Command::RollbackMove { id: None, wait: true });
        assert_eq!(one("CANCEL MOVE 7"), Command::CancelMove(Some(MoveId(7))));
        assert_eq!(one("PAUSE"), Command::Pause(Target::All));
        assert_eq!(one("resume shard 4"), Command::Resume(Target::Shard(ShardId(4))));
        assert_eq!(one("pause node n-1"), Command::Pause(Target::Node("n-1".into())));
        let set = Command::Set { name: "shard_count".into(), value: "32".into() };
        assert_eq!(one("SET shard_count = 32"), set);
        assert_eq!(one("set pgshunt.shard_count to '32'"), set);
    }

    #[test]
    fn what_drivers_say_is_understood() {
        assert_eq!(one("SELECT 1"), Command::SelectOne);
        assert_eq!(one("select version();"), Command::SelectVersion);
        assert_eq!(one("BEGIN ISOLATION LEVEL SERIALIZABLE"), Command::Nothing("BEGIN"));
        assert_eq!(one("ROLLBACK"), Command::Nothing("ROLLBACK"));
        assert_eq!(one("SET application_name = 'x'"), Command::SetIgnored);
        assert_eq!(
            one("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
            Command::SetIgnored
        );
        assert_eq!(one("SET DateStyle TO ISO, MDY"), Command::SetIgnored);
        assert_eq!(
            one("SHOW TRANSACTION ISOLATION LEVEL"),
            Command::ShowParameter("transaction_isolation", "read committed")
        );
        assert_eq!(parse(" ; -- nothing\n /* at all */ "), Ok(vec![]));
        assert_eq!(parse("SHOW NODES; SHOW HELP").unwrap().len(), 2);
    }

    #[test]
    fn a_wrong_command_is_told_what_was_meant() {
        for (text, sqlstate, hint) in [
            ("SHOW NODE", "42601", "Did you mean SHOW NODES?"),
            ("mvoe shard 1 to x", "42601", "Did you mean MOVE SHARD?"),
            ("RELAOD", "42601", "Did you mean RELOAD?"),
            ("frobnicate everything now", "42601", "SHOW HELP lists the commands."),
            ("MOVE SHARD x TO n", "42601", "Write MOVE SHARD id TO node [NOWAIT]"),
            ("MOVE SHARD 1", "42601", "Write MOVE SHARD id TO node [NOWAIT]"),
            ("MOVE SHARD 99999999999 TO n", "42601", "Write MOVE SHARD id TO node [NOWAIT]"),
            ("ADD NODE n 'host'", "42601", "Write ADD NODE name 'host:port'"),
            ("ADD NODE n 'host:99999'", "42601", "Write ADD NODE name 'host:port'"),
            ("CANCEL MOVE 1 2", "42601", "Write CANCEL MOVE [id]"),
            ("SET x", "42601", "SHOW HELP lists the commands."),
            ("SET x = 'unended", "42601", "Close it with '."),
            (
                "SELECT * FROM pg_class",
                "0A000",
                "Connect to your database for SQL. SHOW HELP lists the console's commands.",
            ),
            ("\u{1F980} = (", "42601", "SHOW HELP lists the commands."),
        ] {
            let e = parse(text).expect_err(text);
            assert_eq!((e.sqlstate, e.hint.as_str()), (sqlstate, hint), "{text}: {e:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_command_or_an_error(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_words_are_a_command_or_an_error(
            text in "((SHOW|MOVE|SHARD|TO|SET|PAUSE|NODE|ADD|1|=|;|'|\"|--|x|ROLLBACK|SELECT|\\() ?){0,9}"
        ) {
            let _ = parse(&text);
        }
    }
}
