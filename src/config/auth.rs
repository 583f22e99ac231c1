//! `[auth]`: who is asked for what, and PgBouncer's file of users.
//!
//! The rules are those of pg_hba.conf, a table each: the first whose type, database, user and address
//! fit decides. What pg_hba.conf has beside that (regular expressions, included files, host names,
//! `samehost`, ident maps) is refused when it is read, never ignored.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AuthMethod {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM for roles that have a SCRAM secret, as PostgreSQL understands it.
    #[serde(rename = "md5")]
    Md5,
    /// In clear, so only under TLS or on a Unix socket.
    #[serde(rename = "password")]
    Password,
    #[serde(rename = "trust")]
    Trust,
    /// The name in the client's certificate.
    #[serde(rename = "cert")]
    Cert,
    /// The operating system's name for who is at the other end of a Unix socket.
    #[serde(rename = "peer")]
    Peer,
    #[serde(rename = "reject")]
    Reject,
}

impl AuthMethod {
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Trust => "trust",
            Self::Cert => "cert",
            Self::Peer => "peer",
            Self::Reject => "reject",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// What is asked of everybody when there are no rules.
    pub method: AuthMethod,
    pub rules: Vec<Rule>,
    /// PgBouncer's `auth_file`.
    pub user_file: Option<PathBuf>,
    /// What is in it, by name.
    #[serde(skip)]
    pub users: Users,
    /// Roles that may use the console besides the service role.
    pub admins: Vec<String>,
    /// Roles that may look at what the console shows, and do nothing.
    pub stats_users: Vec<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            method: AuthMethod::ScramSha256,
            rules: Vec::new(),
            user_file: None,
            users: Users::default(),
            admins: Vec::new(),
            stats_users: Vec::new(),
        }
    }
}

/// A line of pg_hba.conf.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "type")]
    pub kind: RuleType,
    #[serde(default)]
    pub database: Names,
    #[serde(default)]
    pub user: Names,
    #[serde(default)]
    pub address: Option<Address>,
    pub method: AuthMethod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleType {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

impl RuleType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Host => "host",
            Self::HostSsl => "hostssl",
            Self::HostNoSsl => "hostnossl",
        }
    }
}

/// As pg_hba.conf would have it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, database, user, address, method } = self;
        write!(f, "{} {} {}", kind.name(), database.0.join(","), user.0.join(","))?;
        match address {
            Some(address) => write!(f, " {address}")?,
            None if *kind == RuleType::Local => {}
            None => f.write_str(" all")?,
        }
        write!(f, " {}", method.name())
    }
}

impl Rule {
    /// Why such a rule can never do what it says.
    pub fn problem(&self) -> Option<&'static str> {
        match (self.kind, self.method) {
            (RuleType::Local, _) if self.address.is_some() => {
                Some("a rule of type \"local\" has no address")
            }
            (RuleType::Local | RuleType::Host | RuleType::HostNoSsl, AuthMethod::Cert) => {
                Some("method \"cert\" is for rules of type \"hostssl\"")
            }
            (RuleType::Host | RuleType::HostSsl | RuleType::HostNoSsl, AuthMethod::Peer) => {
                Some("method \"peer\" is for rules of type \"local\"")
            }
            _ => None,
        }
    }
}

/// One name or several; a keyword in double quotes is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl Default for Names {
    fn default() -> Self {
        Self(vec!["all".into()])
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a name, or a list of names")]
        enum Written {
            One(String),
            Many(Vec<String>),
        }
        let names = match Written::deserialize(d)? {
            Written::One(name) => vec![name],
            Written::Many(names) => names,
        };
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(D::Error::custom("a name is missing; \"all\" means all"));
        }
        for name in &names {
            match name.as_bytes() {
                [b'/', ..] => {
                    return Err(D::Error::custom(format!(
                        "{name:?}: regular expressions are not supported; list the names"
                    )));
                }
                [b'@', ..] => {
                    return Err(D::Error::custom(format!(
                        "{name:?}: files of names are not supported; list the names"
                    )));
                }
                _ => {}
            }
        }
        Ok(Self(names))
    }
}

/// Where clients of a rule come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    All,
    Net { ip: IpAddr, prefix: u8 },
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        if text == "all" {
            return Some(Self::All);
        }
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(p) => p.parse().ok().filter(|p| *p <= most)?,
            None => most,
        };
        Some(Self::Net { ip, prefix })
    }

    pub fn contains(&self, client: IpAddr) -> bool {
        // A client of IPv4 at a socket of IPv6.
        let client = client.to_canonical();
        let Self::Net { ip, prefix } = self else { return true };
        let (a, b, width) = match (ip, client) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128u32),
            _ => return false,
        };
        let differs: u128 = a ^ b;
        differs.checked_shr(width - u32::from(*prefix)).unwrap_or(0) == 0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Net { ip, prefix } => write!(f, "{ip}/{prefix}"),
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no address like \"10.0.0.0/8\" or \"::1/128\", and not \"all\""
            ))
        })
    }
}

/// What a user file says: name, and password or secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users(Arc<HashMap<String, String>>);

impl Users {
    pub fn get(&self, user: &str) -> Option<&str> {
        self.0.get(user).map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads PgBouncer's format: `"name" "secret"`, a line each; `""` within quotes is one quote, and
    /// what follows the secret is ignored. Lines that begin with a semicolon are comments.
    ///
    /// # Errors
    /// The line, counted from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            let read = quoted(line).and_then(|(name, rest)| {
                let (secret, _) = quoted(rest.trim_start())?;
                Some((name, secret))
            });
            let Some((name, secret)) = read else {
                return Err((at + 1, "expected \"name\" \"password\""));
            };
            if name.is_empty() {
                return Err((at + 1, "a name is missing"));
            }
            if users.insert(name, secret).is_some() {
                return Err((at + 1, "this name is there twice"));
            }
        }
        Ok(Self(Arc::new(users)))
    }
}

/// By hand, so that no secret is in any log.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.0.len())
    }
}

/// The text in double quotes at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut content = String::new();
    loop {
        let (part, tail) = rest.split_once('"')?;
        content += part;
        match tail.strip_prefix('"') {
            Some(more) => {
                content.push('"');
                rest = more;
            }
            None => return Some((content, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_contain_as_in_pg_hba() {
        let contains = |net: &str, ip: &str| {
            let address = Address::parse(net).unwrap_or_else(|| panic!("{net}"));
            address.contains(ip.parse().unwrap())
        };
        for (net, ip, fits) in [
            ("all", "::1", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "127.0.0.1", false),
            ("10.1.0.0/16", "10.1.255.3", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            // Bits of the host do not count.
            ("10.1.2.3/16", "10.1.9.9", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1/32", "127.0.0.2", false),
            ("127.0.0.0/31", "127.0.0.1", true),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ] {
            assert_eq!(contains(net, ip), fits, "{ip} in {net}");
        }
        for bad in ["", "localhost", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0/8", "samehost"] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_user_file_is_pgbouncers() {
        let users = Users::parse(
            "; comment\n\n\"ann\" \"pw\"\r\n  \"b\"\"b\" \"p\"\"w\" more\n\"c\" \"\"\n\"d\"\"\"\n",
        );
        assert_eq!(users, Err((6, "expected \"name\" \"password\"")));
        let users = Users::parse(
            "; comment\n\n\"ann\" \"pw\"\r\n  \"b\"\"b\" \"p\"\"w\" more\n\"c\" \"\"\n",
        )
        .unwrap();
        assert_eq!(users.get("ann"), Some("pw"));
        assert_eq!(users.get("b\"b"), Some("p\"w"));
        assert_eq!(users.get("c"), Some(""));
        assert_eq!((users.len(), users.get("d")), (3, None));
        assert_eq!(format!("{users:?}"), "3 users");
        for (text, line) in [("ann pw", 1), ("\"a\" \"b\"\n\"a\" \"c\"", 2), ("\"\" \"x\"", 1)] {
            assert_eq!(Users::parse(text).unwrap_err().0, line, "{text}");
        }
    }
}
