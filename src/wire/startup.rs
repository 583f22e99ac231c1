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

/// A StartupMessage of protocol 3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Startup {
    pub minor: u16,
    pub user: String,
    /// The user's name when the client gave none.
    pub database: String,
    /// `replication`, when asked for.
    pub replication: Option<String>,
    /// All other parameters in their order, with those of `options` behind.
    pub params: Vec<(String, String)>,
    /// Names of protocol extensions (`_pq_.…`) the client asked for; pgshunt knows none.
    pub extensions: Vec<String>,
}

/// What is wrong with a startup packet, with its SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("unsupported frontend protocol {0}.{1}: server supports 3.0 to 3.2")]
    Version(u16, u16),
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("startup packet is not valid UTF-8")]
    Encoding,
    #[error("invalid command-line argument for server process: {0}")]
    Options(String),
}

impl StartupError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Protocol(_) => "08P01",
            Self::Version(..) => "0A000",
            Self::NoUser => "28000",
            Self::Encoding => "22021",
            Self::Options(_) => "42601",
        }
    }
}

/// The length the first packet announces, once its four bytes are there.
pub fn packet_len(buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
    let [a, b, c, d, ..] = *buf else { return Ok(None) };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(8..=MAX_STARTUP).contains(&len) {
        return Err(ProtocolError("invalid length of startup packet"));
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
        SSL | GSSENC => Err(ProtocolError("invalid length of startup packet").into()),
        CANCEL => {
            let pid = r.i32()?;
            // 4 bytes up to protocol 3.0, up to 256 since 3.2.
            if r.0.is_empty() || r.0.len() > 256 {
                return Err(ProtocolError("invalid length of cancel request").into());
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
        let (name, value) = (text(name)?, text(value)?);
        match name.as_str() {
            "user" => s.user = value,
            "database" => s.database = value,
            "replication" if !matches!(value.as_str(), "false" | "off" | "0" | "no") => {
                s.replication = Some(value);
            }
            "replication" => {}
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
    if s.database.is_empty() {
        s.database.clone_from(&s.user);
    }
    // A parameter of the packet wins over the same one in `options`, as in process_startup_options.
    options.retain(|(n, _)| !s.params.iter().any(|(p, _)| p.eq_ignore_ascii_case(n)));
    s.params.extend(options);
    Ok(s)
}

/// `pg_split_opts` and the switches `-c name=value` and `--name=value` of `process_postgres_switches`.
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

    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(w) = words.next() {
        let assignment = if w == "-c" {
            words.next().ok_or_else(|| StartupError::Options(w.clone()))?
        } else if let Some(rest) = w.strip_prefix("--").or_else(|| w.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(StartupError::Options(w));
        };
        let (name, value) =
            assignment.split_once('=').ok_or_else(|| StartupError::Options(w.clone()))?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
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

pub fn put_ssl_request(out: &mut Vec<u8>) {
    out.extend_from_slice(&8u32.to_be_bytes());
    out.extend_from_slice(&SSL.to_be_bytes());
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
            [("jit", "on"), ("geqo", "off"), ("work_mem", "4MB"), ("a.b", "x y")],
            "the packet's own jit wins"
        );
        assert_eq!(s.extensions, ["_pq_.new"]);
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
        let mut cancel = Vec::new();
        put_cancel(&mut cancel, 1, &[1, 2, 3, 4]);
        assert_eq!(first(&cancel), Ok(First::Cancel { pid: 1, secret: vec![1, 2, 3, 4] }));
    }
}
