//! What comes before the first frame: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.
//!
//! Source: `ProcessStartupPacket` in PostgreSQL's backend_startup.c, and its limits.

use super::ProtocolError;

/// `MAX_STARTUP_PACKET_LENGTH`.
pub const MAX_STARTUP: usize = 10_000;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// The first packets of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    Ssl,
    GssEnc,
    Cancel { pid: i32, secret: Vec<u8> },
    Startup(Startup),
}

/// The protocol a session is held in. 3.1 was never defined; PostgreSQL 18 takes it and speaks as in
/// 3.0 (some versions of PgBouncer answered it to everybody).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minor {
    V0 = 0,
    V1 = 1,
    /// Cancel keys may be longer than four bytes.
    V2 = 2,
}

impl Minor {
    /// What is spoken with a client that asked for this minor version, and whether that is what it
    /// asked for; else it must be told (NegotiateProtocolVersion).
    pub fn spoken(asked: u16) -> (Self, bool) {
        match asked {
            0 => (Self::V0, true),
            1 => (Self::V1, true),
            2 => (Self::V2, true),
            _ => (Self::V2, false),
        }
    }

    /// The whole version, as NegotiateProtocolVersion tells it.
    pub fn version(self) -> i32 {
        3 << 16 | self as i32
    }
}

/// A StartupMessage of protocol 3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Startup {
    pub minor: u16,
    pub user: String,
    /// The user's name when the client gave none.
    pub database: String,
    /// `replication` as it was given, when it asks for a connection of that kind: "database" for
    /// logical replication; else there is no database.
    pub replication: Option<String>,
    /// All other parameters in their order, with those of `options` in front. One may be there twice.
    pub params: Vec<(String, String)>,
    /// Names of protocol extensions (`_pq_.…`) the client asked for; pgshunt knows none.
    pub extensions: Vec<String>,
}

/// What is wrong with a startup packet, with its SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It may be no packet at all: whoever sent it is told nothing, as by PostgreSQL.
    #[error("invalid length of startup packet")]
    Length,
    #[error("unsupported frontend protocol {0}.{1}: server supports 3.0 to 3.2")]
    Version(u16, u16),
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("startup packet is not valid UTF-8")]
    Encoding,
    #[error("{0}")]
    Options(String),
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
}

impl StartupError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Protocol(_) | Self::Length => "08P01",
            Self::Version(..) => "0A000",
            Self::NoUser => "28000",
            Self::Encoding => "22021",
            Self::Options(_) => "42601",
            Self::Replication(_) => "22023",
        }
    }

    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Replication(_) => Some(r#"Valid values are: "false", 0, "true", 1, "database"."#),
            Self::Protocol(_)
            | Self::Length
            | Self::Version(..)
            | Self::NoUser
            | Self::Encoding
            | Self::Options(_) => None,
        }
    }
}

/// The length the first packet announces, once its four bytes are there.
pub fn packet_len(buf: &[u8]) -> Result<Option<usize>, StartupError> {
    let [a, b, c, d, ..] = *buf else { return Ok(None) };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(8..=MAX_STARTUP).contains(&len) {
        return Err(StartupError::Length);
    }
    Ok(Some(len))
}

/// Reads a whole first packet (its length was checked by [`packet_len`]).
pub fn first(packet: &[u8]) -> Result<First, StartupError> {
    let mut r = super::frontend::Reader(packet);
    r.i32()?;
    let code = r.i32()? as u32;
    match code {
        SSL if r.0.is_empty() => Ok(First::Ssl),
        GSSENC if r.0.is_empty() => Ok(First::GssEnc),
        SSL | GSSENC => Err(StartupError::Length),
        CANCEL => {
            let pid = r.i32()?;
            // 4 bytes up to protocol 3.0, up to 256 since 3.2.
            if r.0.is_empty() || r.0.len() > 256 {
                return Err(StartupError::Length);
            }
            Ok(First::Cancel { pid, secret: r.0.to_vec() })
        }
        _ => {
            let (major, minor) = ((code >> 16) as u16, code as u16);
            if major != 3 {
                return Err(StartupError::Version(major, minor));
            }
            startup(minor, r.0).map(First::Startup)
        }
    }
}

fn startup(minor: u16, body: &[u8]) -> Result<Startup, StartupError> {
    let malformed =
        || ProtocolError("invalid startup packet layout: expected terminator as last byte");
    let mut s = Startup { minor, ..Startup::default() };
    let mut options = Vec::new();
    let mut r = super::frontend::Reader(body);
    loop {
        let name = r.cstr().map_err(|_| malformed())?;
        if name.is_empty() {
            break;
        }
        let value = r.cstr().map_err(|_| malformed())?;
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).map_err(|_| StartupError::Encoding);
        let name = text(name)?;
        let value = match std::str::from_utf8(value) {
            Ok(value) => value.to_owned(),
            // A program named in another encoding; the server keeps no byte beyond ASCII either.
            Err(_) if name.eq_ignore_ascii_case("application_name") => ascii(value),
            Err(_) => return Err(StartupError::Encoding),
        };
        match name.as_str() {
            "user" => s.user = truncated(value),
            "database" => s.database = truncated(value),
            "replication" if value == "database" => s.replication = Some(value),
            "replication" => match parse_bool(&value) {
                Some(true) => s.replication = Some(value),
                Some(false) => s.replication = None,
                None => return Err(StartupError::Replication(value)),
            },
            "options" => options = split_options(&value)?,
            _ if name.starts_with("_pq_.") => s.extensions.push(name),
            _ => s.params.push((name, value)),
        }
    }
    if !r.0.is_empty() {
        return Err(malformed().into());
    }
    if s.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if s.replication.as_deref().is_some_and(|r| r != "database") {
        s.database.clear();
    } else if s.database.is_empty() {
        s.database.clone_from(&s.user);
    }
    // Each assigns what it names, in this order, as in process_startup_options.
    s.params.splice(..0, options);
    Ok(s)
}

/// A name as long as PostgreSQL's are (NAMEDATALEN - 1), cut where no character is broken.
fn truncated(mut name: String) -> String {
    let end = (0..=63).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name.truncate(end);
    name
}

/// As `pg_clean_ascii`.
fn ascii(text: &[u8]) -> String {
    text.iter().map(|b| if (b' '..=b'~').contains(b) { char::from(*b) } else { '?' }).collect()
}

/// `parse_bool`: any part of a word that tells it from the others, in any case.
fn parse_bool(text: &str) -> Option<bool> {
    let begins = |word: &str, least: usize| {
        text.len() >= least && word.get(..text.len()).is_some_and(|w| w.eq_ignore_ascii_case(text))
    };
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if begins("true", 1) || begins("yes", 1) || begins("on", 2) => Some(true),
        _ if begins("false", 1) || begins("no", 1) || begins("off", 2) => Some(false),
        _ => None,
    }
}

/// `pg_split_opts`, and the switches of `process_postgres_switches` that set a parameter a client may
/// set at all.
fn split_options(text: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() {
            words.extend(word.take());
        } else {
            let c = if c == '\\' { chars.next().unwrap_or('\\') } else { c };
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);

    let unknown = |w: &str| {
        let message = format!("invalid command-line argument for server process: {w}");
        StartupError::Options(message)
    };
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(w) = words.next() {
        let Some(switch) = w.strip_prefix('-') else { return Err(unknown(&w)) };
        let mut letters = switch.chars();
        let (letter, rest) = (letters.next().unwrap_or(' '), letters.as_str());
        let mut argument = || match rest {
            "" => words.next().ok_or_else(|| unknown(&w)),
            rest => Ok(rest.to_owned()),
        };
        let (name, value) = match letter {
            '-' | 'c' => {
                let assignment = if letter == 'c' { argument()? } else { rest.to_owned() };
                let Some((name, value)) = assignment.split_once('=') else {
                    let dash = if letter == 'c' { "-c " } else { "--" };
                    return Err(StartupError::Options(format!(
                        "{dash}{assignment} requires a value"
                    )));
                };
                (name.replace('-', "_"), value.to_owned())
            }
            'S' => ("work_mem".to_owned(), argument()?),
            'f' => {
                let kind = argument()?;
                (planner_switch(&kind).ok_or_else(|| unknown(&w))?.to_owned(), "false".to_owned())
            }
            // These take nothing, and could be written together; nobody does.
            'e' if rest.is_empty() => ("datestyle".to_owned(), "euro".to_owned()),
            's' if rest.is_empty() => ("log_statement_stats".to_owned(), "true".to_owned()),
            'O' if rest.is_empty() => ("allow_system_table_mods".to_owned(), "true".to_owned()),
            'P' if rest.is_empty() => ("ignore_system_indexes".to_owned(), "true".to_owned()),
            _ => return Err(unknown(&w)),
        };
        settings.push((name, value));
    }
    Ok(settings)
}

/// What `-f` turns off.
fn planner_switch(kind: &str) -> Option<&'static str> {
    Some(match kind.chars().next()? {
        's' => "enable_seqscan",
        'i' => "enable_indexscan",
        'o' => "enable_indexonlyscan",
        'b' => "enable_bitmapscan",
        't' => "enable_tidscan",
        'n' => "enable_nestloop",
        'm' => "enable_mergejoin",
        'h' => "enable_hashjoin",
        _ => return None,
    })
}

/// Writes a StartupMessage of protocol 3.0.
pub fn put_startup<'a>(out: &mut Vec<u8>, params: impl Iterator<Item = (&'a str, &'a str)>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(3u32 << 16).to_be_bytes());
    for (name, value) in params {
        for text in [name, value] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }
    out.push(0);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

pub fn put_cancel(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    out.extend_from_slice(&(12 + secret.len() as u32).to_be_bytes());
    out.extend_from_slice(&CANCEL.to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    out.extend_from_slice(secret);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(params: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        put_startup(&mut out, params.iter().copied());
        out
    }

    #[test]
    fn startup_reads_back() {
        let p = packet(&[
            ("user", "u"),
            ("options", r"-c geqo=off --work-mem=4MB -c a.b=x\ y -cjit=off"),
            ("jit", "on"),
            ("_pq_.new", "1"),
        ]);
        let First::Startup(s) = first(&p).unwrap() else { panic!("not a startup") };
        assert_eq!((s.user.as_str(), s.database.as_str()), ("u", "u"));
        let params: Vec<_> = s.params.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            params,
            [("geqo", "off"), ("work_mem", "4MB"), ("a.b", "x y"), ("jit", "off"), ("jit", "on")],
            "the packet's own come last"
        );
        assert_eq!(s.extensions, ["_pq_.new"]);
    }

    fn read(params: &[(&str, &str)]) -> Result<Startup, StartupError> {
        match first(&packet(params))? {
            First::Startup(s) => Ok(s),
            other => panic!("not a startup: {other:?}"),
        }
    }

    #[test]
    fn switches_are_parameters() {
        let settings = |options: &str| {
            read(&[("user", "u"), ("options", options)])
                .map(|s| s.params.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        };
        assert_eq!(
            settings("-S 1024 -fs -f h -e").unwrap(),
            ["work_mem=1024", "enable_seqscan=false", "enable_hashjoin=false", "datestyle=euro"]
        );
        assert_eq!(settings("--search_path=").unwrap(), ["search_path="]);
        assert_eq!(settings("-c jit").unwrap_err(), "-c jit requires a value");
        assert_eq!(settings("--jit").unwrap_err(), "--jit requires a value");
        for bad in ["-c", "-", "-fz", "-x", "jit=on", "-S"] {
            let message = settings(bad).unwrap_err();
            assert!(message.starts_with("invalid command-line argument"), "{bad}: {message}");
        }
    }

    #[test]
    fn replication_is_asked_for_in_any_words_of_a_boolean() {
        let asked = |value| {
            let s = read(&[("user", "u"), ("replication", value)])?;
            Ok::<_, StartupError>((s.replication, s.database))
        };
        for value in ["1", "t", "TRUE", "yes", "on", "y"] {
            assert_eq!(asked(value), Ok((Some(value.to_owned()), String::new())), "{value}");
        }
        assert_eq!(asked("database"), Ok((Some("database".into()), "u".into())));
        for value in ["0", "f", "False", "no", "n", "of", "OFF"] {
            assert_eq!(asked(value), Ok((None, "u".into())), "{value}");
        }
        for value in ["", "o", "2", "truer", "databas"] {
            let e = asked(value).unwrap_err();
            assert_eq!((e.sqlstate(), e.hint().is_some()), ("22023", true), "{value}");
        }
    }

    #[test]
    fn names_are_cut_and_a_programs_strange_name_is_no_obstacle() {
        let long = "\u{fc}".repeat(40);
        let s = read(&[("user", &long), ("database", &"d".repeat(70))]).unwrap();
        assert_eq!((s.user.len(), s.database.len()), (62, 63));
        let mut latin1 = packet(&[("user", "u"), ("application_name", "m!ller")]);
        let at = latin1.iter().position(|b| *b == b'!').unwrap();
        latin1[at] = 0xfc;
        let Ok(First::Startup(s)) = first(&latin1) else { panic!("refused") };
        assert_eq!(s.params, [("application_name".to_owned(), "m?ller".to_owned())]);
        let mut latin1 = packet(&[("user", "m!ller")]);
        let at = latin1.iter().position(|b| *b == b'!').unwrap();
        latin1[at] = 0xfc;
        assert_eq!(first(&latin1).unwrap_err().sqlstate(), "22021");
    }

    #[test]
    fn the_newest_version_both_know_is_spoken() {
        assert_eq!(Minor::spoken(0), (Minor::V0, true));
        assert_eq!(Minor::spoken(1), (Minor::V1, true));
        assert_eq!(Minor::spoken(2), (Minor::V2, true));
        assert_eq!(Minor::spoken(3), (Minor::V2, false));
        assert_eq!(Minor::spoken(9999), (Minor::V2, false));
        assert_eq!(Minor::V2.version(), 0x0003_0002);
    }

    #[test]
    fn bad_packets_are_refused() {
        assert!(packet_len(&[0, 0, 0, 7]).is_err());
        assert!(packet_len(&[0xff; 4]).is_err());
        assert_eq!(first(&packet(&[])).unwrap_err(), StartupError::NoUser);
        let mut trailing = packet(&[("user", "u")]);
        trailing.push(1);
        assert!(first(&trailing).is_err());
        let mut version = packet(&[("user", "u")]);
        version[5] = 2;
        assert_eq!(first(&version).unwrap_err().sqlstate(), "0A000");
        assert!(first(&packet(&[("user", "u"), ("options", "-x")])).is_err());
        for what in [SSL, GSSENC] {
            let mut longer = 9u32.to_be_bytes().to_vec();
            longer.extend_from_slice(&what.to_be_bytes());
            longer.push(0);
            assert_eq!(first(&longer), Err(StartupError::Length));
        }
        let mut cancel = Vec::new();
        put_cancel(&mut cancel, 1, &[1, 2, 3, 4]);
        assert_eq!(first(&cancel), Ok(First::Cancel { pid: 1, secret: vec![1, 2, 3, 4] }));
    }
}
