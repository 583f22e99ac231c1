//! The console's language: a handful of commands, words without case, a `;` behind them.

use std::fmt;

use super::words::{ParseError, Token, tokens};
use crate::topology::{MoveId, ShardId};

/// What PAUSE and RESUME are about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    All,
    Database(String),
    Shard(ShardId),
    Node(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Database(name) => write!(f, "database \"{name}\""),
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
    Sockets = "SOCKETS" "clients and server connections in one",
    ActiveSockets = "ACTIVE_SOCKETS" "those of them that are at work",
    Users = "USERS" "the roles that are connected, and their limits",
    Stats = "STATS" "what was done, in total and on average in the last period",
    StatsTotals = "STATS_TOTALS" "what was done in total",
    StatsAverages = "STATS_AVERAGES" "what was done on average in the last period",
    Totals = "TOTALS" "STATS of all databases together, a line each",
    Databases = "DATABASES" "the databases in use, what is paused and disabled",
    Lists = "LISTS" "how many there are of what",
    State = "STATE" "active or paused",
    Config = "CONFIG" "the configuration and the cluster's settings",
    Mem = "MEM" "memory of the process",
    DnsHosts = "DNS_HOSTS" "empty: names are resolved when a connection is opened",
    DnsZones = "DNS_ZONES" "empty, as above",
    Peers = "PEERS" "empty: there are no peers",
    PeerPools = "PEER_POOLS" "empty, as above",
    Version = "VERSION" "the version",
    Help = "HELP" "this",
}

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Now.
    Immediately,
    /// When open transactions have ended.
    Transactions,
    /// When all clients have left; no new ones come in.
    Clients,
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
    Disable(String),
    Enable(String),
    /// `None`: of all databases, here and below.
    Reconnect(Option<String>),
    WaitClose(Option<String>),
    Kill(Option<String>),
    KillClient(u64),
    Shutdown(Stop),
    Reload,
    /// `SELECT 1`, by which tools ask whether anybody is there.
    SelectOne,
    SelectVersion,
    /// BEGIN, COMMIT, ROLLBACK, DISCARD ALL, ...: answered with this tag, and nothing else.
    Nothing(&'static str),
}

impl Command {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Show(_) | Self::ShowParameter(..) | Self::SelectOne | Self::SelectVersion => true,
            Self::Nothing(_) | Self::SetIgnored => true,
            Self::Set { .. } | Self::AddNode { .. } | Self::MoveShard { .. } => false,
            Self::RollbackMove { .. } | Self::CancelMove(_) | Self::FinishMove(_) => false,
            Self::Pause(_) | Self::Resume(_) | Self::Disable(_) | Self::Enable(_) => false,
            Self::Reconnect(_) | Self::WaitClose(_) | Self::Kill(_) => false,
            Self::KillClient(_) | Self::Shutdown(_) | Self::Reload => false,
        }
    }
}

/// How each command is written, for HELP and for hints.
pub const SYNTAX: &[&str] = &[
    "ADD NODE name 'host:port'",
    "MOVE SHARD id TO node [NOWAIT]",
    "ROLLBACK MOVE [id] [NOWAIT]",
    "CANCEL MOVE [id]",
    "FINISH MOVE [id]",
    "PAUSE [database | SHARD id | NODE name]",
    "RESUME [database | SHARD id | NODE name]",
    "DISABLE database",
    "ENABLE database",
    "RECONNECT [database]",
    "WAIT_CLOSE [database]",
    "KILL [database]",
    "KILL_CLIENT id",
    "SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]",
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
            "SELECT" => return self.select(),
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
            "DISABLE" => Command::Disable(self.name("the database")?),
            "ENABLE" => Command::Enable(self.name("the database")?),
            "RECONNECT" => Command::Reconnect(self.database()),
            "WAIT_CLOSE" => Command::WaitClose(self.database()),
            "KILL" => Command::Kill(self.database()),
            "KILL_CLIENT" => Command::KillClient(self.number("the client's id")?),
            "SHUTDOWN" if self.keyword("WAIT_FOR_SERVERS") => Command::Shutdown(Stop::Transactions),
            "SHUTDOWN" if self.keyword("WAIT_FOR_CLIENTS") => Command::Shutdown(Stop::Clients),
            "SHUTDOWN" => Command::Shutdown(Stop::Immediately),
            "SUSPEND" => {
                return Err(not_offered(
                    "SUSPEND",
                    "PAUSE lets transactions end, closes the server connections and has clients \
                     wait; RESUME ends that.",
                ));
            }
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
        if what.eq_ignore_ascii_case("fds") {
            return Err(not_offered(
                "SHOW FDS",
                "It hands out passwords and keys, and was for an online restart. SHOW SOCKETS \
                 lists the connections.",
            ));
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

    /// `SELECT pools` is `SHOW POOLS`, as in PgBouncer.
    fn select(&mut self) -> Result<Option<Command>, ParseError> {
        match self.rest {
            [Token::Word(one)] if one == "1" => {
                self.rest = &[];
                Ok(Some(Command::SelectOne))
            }
            [Token::Word(w), Token::Symbol('('), Token::Symbol(')')]
                if w.eq_ignore_ascii_case("version") =>
            {
                self.rest = &[];
                Ok(Some(Command::SelectVersion))
            }
            [Token::Word(_)] => self.show(),
            _ => Ok(None),
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
            Ok(self.database().map_or(Target::All, Target::Database))
        }
    }

    fn database(&mut self) -> Option<String> {
        match self.rest {
            [Token::Word(w) | Token::Quoted(w), rest @ ..] => {
                self.rest = rest;
                Some(w.clone())
            }
            _ => None,
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
        let verb = written.split(' ').next().unwrap_or_default();
        let exact = SYNTAX.iter().find(|s| s.starts_with(written.as_str()));
        let hint = match exact.or_else(|| SYNTAX.iter().find(|s| s.split(' ').next() == Some(verb)))
        {
            Some(syntax) => format!("Write {syntax}"),
            None => "SHOW HELP lists the commands.".to_owned(),
        };
        ParseError { sqlstate: "42601", message: format!("syntax error: {message}"), hint }
    }

    fn unknown(&self) -> ParseError {
        let mut written = self.written();
        if let [Token::Word(_), Token::Word(_)] = self.all
            && let Some(what) = written.strip_prefix("SELECT ")
        {
            written = format!("SHOW {what}");
        }
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

fn not_offered(what: &str, hint: &str) -> ParseError {
    ParseError {
        sqlstate: "0A000",
        message: format!("{what} is not supported"),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests;
