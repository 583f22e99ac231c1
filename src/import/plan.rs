//! What of PgBouncer's configuration becomes which key of ours, and what is left over.

use std::path::{Path, PathBuf};

use super::auth::{Auth, ClientTls};
use super::ini::{self, Entry};
use super::settings::{Fate, OF_DATABASE, SETTINGS, default_of};
use super::{Finding, ImportError};

/// The keys that are carried over, as they will be written.
#[derive(Debug)]
pub struct Plan {
    pub listen: String,
    pub unix_socket_dir: Option<String>,
    pub unix_socket_mode: Option<u32>,
    pub stats_period: u64,
    pub client_tls: ClientTls,
    pub node_tls: &'static str,
    pub node_roots: Option<String>,
    pub auth: Auth,
    pub admins: Vec<String>,
    pub stats_users: Vec<String>,
    pub database: String,
    pub host: String,
    pub port: u16,
    pub pool_size: u64,
    pub min_pool_size: u64,
    pub server_round_robin: bool,
    pub queue_timeout: u64,
    pub idle_timeout: u64,
    pub server_lifetime: u64,
    pub connect_timeout: u64,
    pub max_prepared: u64,
    pub max_clients: u64,
    pub login_timeout: u64,
    pub log_filter: &'static str,
}

/// Where PgBouncer says 0 for "never": ten years.
const NEVER: u64 = 10 * 365 * 86_400;

pub struct Maker<'a> {
    entries: &'a [Entry],
    file: &'a Path,
    findings: Vec<Finding>,
}

/// One of `[databases]`.
struct Database {
    name: String,
    place: String,
    parameters: Vec<(String, String)>,
}

impl Database {
    fn get(&self, key: &str) -> Option<&str> {
        // The last one counts.
        self.parameters.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn is_wildcard(&self) -> bool {
        self.name == "*"
    }
}

pub fn make(
    entries: &[Entry],
    file: &Path,
    database: Option<&str>,
) -> Result<(Plan, Vec<Finding>), ImportError> {
    let mut m = Maker { entries, file, findings: Vec::new() };
    m.left_over();
    let databases = m.databases()?;
    let home = m.home(&databases, database)?;
    m.other_databases(&databases, &home);
    m.users();
    let client_tls = m.client_tls();
    let auth = m.auth(&client_tls);
    let (node_tls, node_roots) = m.node_tls();
    m.pool_mode();
    let plan = Plan {
        listen: m.listen(),
        unix_socket_dir: m.unix_socket_dir(),
        unix_socket_mode: m.unix_socket_mode(),
        stats_period: m.at_least_one("stats_period"),
        client_tls,
        node_tls,
        node_roots,
        auth,
        admins: m.names("admin_users"),
        stats_users: m.names("stats_users"),
        pool_size: match home.pool_size {
            Some(size) => size,
            None => m.at_least_one("default_pool_size"),
        },
        min_pool_size: m.number("min_pool_size"),
        server_round_robin: m.number("server_round_robin") > 0,
        queue_timeout: m.or_never("query_wait_timeout"),
        idle_timeout: m.or_never("server_idle_timeout"),
        server_lifetime: m.at_least_one("server_lifetime"),
        connect_timeout: m.or_never("server_connect_timeout"),
        max_prepared: m.at_least_one("max_prepared_statements"),
        max_clients: m.at_least_one("max_client_conn"),
        login_timeout: m.or_never("client_login_timeout"),
        log_filter: if m.number("verbose") > 0 { "debug" } else { "info" },
        database: home.database,
        host: home.host,
        port: home.port,
    };
    // In the order of the file; what is about no line of it first.
    m.findings.sort_by_key(|f| entries.iter().position(|e| e.place == f.place));
    Ok((plan, m.findings))
}

struct Home {
    database: String,
    host: String,
    port: u16,
    pool_size: Option<u64>,
}

impl Maker<'_> {
    pub fn say(&mut self, place: &str, what: impl Into<String>, fate: Fate) {
        let (advice, is_lack) = match fate {
            Fate::Taken => return,
            Fate::Note(advice) => (advice, false),
            Fate::Lack(advice) => (advice, true),
        };
        self.tell(place, what, advice, is_lack);
    }

    pub fn tell(
        &mut self,
        place: &str,
        what: impl Into<String>,
        advice: impl Into<String>,
        is_lack: bool,
    ) {
        let (mut what, advice) = (what.into(), advice.into());
        // Options of LDAP have a password among them; it is not repeated.
        if let Some(at) = what.find("ldapbindpasswd") {
            what.truncate(at);
            what.push_str("...");
        }
        self.findings.push(Finding { place: place.to_owned(), what, advice, is_lack });
    }

    /// The settings that nobody here asks for.
    fn left_over(&mut self) {
        for e in self.entries {
            match e.section.as_str() {
                "pgbouncer" => {}
                "databases" | "users" => continue,
                "peers" => {
                    let what = format!("peer {}", e.key);
                    let advice =
                        "Only one process serves a cluster: there is nobody to forward to.";
                    self.say(&e.place, what, Fate::Lack(advice));
                    continue;
                }
                other => {
                    let what = format!("{} in section [{other}]", e.key);
                    self.say(&e.place, what, Fate::Lack("PgBouncer has no such section."));
                    continue;
                }
            }
            let what = format!("{} = {}", e.key, e.value);
            match SETTINGS.iter().find(|s| s.0 == e.key) {
                Some((_, default, _)) if *default == e.value => {}
                Some((_, _, fate)) => self.say(&e.place, what, *fate),
                None => self.say(
                    &e.place,
                    what,
                    Fate::Lack(
                        "PgBouncer 1.25 does not know this setting, and neither does pgshunt.",
                    ),
                ),
            }
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|e| e.section == "pgbouncer" && e.key == name)
    }

    pub fn setting(&self, name: &str) -> &str {
        self.entry(name).map_or(default_of(name), |e| e.value.as_str())
    }

    /// Where a setting stands, or the file it might stand in.
    pub fn place(&self, name: &str) -> String {
        self.entry(name).map_or_else(|| self.file.display().to_string(), |e| e.place.clone())
    }

    /// What is not a number is told, and PgBouncer's default taken.
    fn number(&mut self, name: &str) -> u64 {
        let value = self.setting(name).to_owned();
        // PgBouncer takes fractions of seconds.
        match value.parse::<f64>() {
            Ok(n) if n >= 0.0 => n.ceil() as u64,
            Ok(_) | Err(_) => {
                let default = default_of(name);
                let (place, what) = (self.place(name), format!("{name} = {value}"));
                self.tell(&place, what, format!("It is not a number; {default} was taken."), true);
                default.parse().unwrap_or(1)
            }
        }
    }

    fn or_never(&mut self, name: &str) -> u64 {
        match self.number(name) {
            0 => NEVER,
            n => n,
        }
    }

    fn at_least_one(&mut self, name: &str) -> u64 {
        let n = self.number(name);
        if n == 0 {
            let advice = match name {
                "max_prepared_statements" => "Prepared statements always work; 1 was taken.",
                "server_lifetime" => "No connection is closed right after its use; 1 s was taken.",
                _ => "It cannot be 0 here; 1 was taken.",
            };
            let place = self.place(name);
            self.tell(&place, format!("{name} = 0"), advice, true);
        }
        n.max(1)
    }

    fn names(&self, name: &str) -> Vec<String> {
        let names = self.setting(name).split(',').map(|n| n.trim().to_owned());
        names.filter(|n| !n.is_empty()).collect()
    }

    pub fn given(&self, name: &str) -> Option<String> {
        Some(self.setting(name).to_owned()).filter(|v| !v.is_empty())
    }

    fn databases(&self) -> Result<Vec<Database>, ImportError> {
        let entries = self.entries.iter().filter(|e| e.section == "databases");
        entries
            .map(|e| {
                let parameters = ini::connection(&e.value)
                    .map_err(|why| ImportError::Database(format!("{}: {why}", e.place)))?;
                Ok(Database { name: e.key.clone(), place: e.place.clone(), parameters })
            })
            .collect()
    }

    fn host(&self, d: &Database) -> (String, u16) {
        let socket = self.setting("unix_socket_dir");
        let host = d.get("host").filter(|h| !h.is_empty()).unwrap_or(socket);
        let first = host.split(',').next().unwrap_or(host).trim();
        let port = d.get("port").and_then(|p| p.split(',').next()?.trim().parse().ok());
        (first.to_owned(), port.unwrap_or(5432))
    }

    /// The database whose tables may be distributed, and the node that has it.
    fn home(&mut self, all: &[Database], wanted: Option<&str>) -> Result<Home, ImportError> {
        let known = || all.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
        let named: Vec<&Database> = all.iter().filter(|d| !d.is_wildcard()).collect();
        let wildcard = all.iter().find(|d| d.is_wildcard());
        let chosen = match (wanted, named.first()) {
            (Some(name), _) => {
                let found = named.iter().find(|d| d.name == name).copied();
                found.or(wildcard).ok_or_else(|| {
                    ImportError::Database(format!("there is no database {name}, but {}", known()))
                })?
            }
            (None, Some(first)) => {
                if named.len() > 1 {
                    let what = format!("{} databases; {} is taken", named.len(), first.name);
                    let advice = format!(
                        "Distributed tables are in one database. `--database NAME` takes another one: {}.",
                        known()
                    );
                    self.tell("[databases]", what, advice, false);
                }
                first
            }
            (None, None) => wildcard.ok_or_else(|| {
                ImportError::Database("the file names no database in [databases]".into())
            })?,
        };
        let database = match (chosen.get("dbname").filter(|n| !n.is_empty()), wanted) {
            (Some(name), _) => name.to_owned(),
            (None, Some(name)) => name.to_owned(),
            (None, None) if chosen.is_wildcard() => {
                let what = "* names no database; postgres is taken";
                let advice = "Say which one may have distributed tables: `--database NAME`.";
                self.tell(&chosen.place, what, advice, true);
                "postgres".to_owned()
            }
            (None, None) => chosen.name.clone(),
        };
        let (host, port) = self.host(chosen);
        let pool_size = chosen.get("pool_size").and_then(|n| n.parse().ok()).filter(|&n| n > 0);
        Ok(Home { database, host, port, pool_size })
    }

    fn other_databases(&mut self, all: &[Database], home: &Home) {
        for d in all {
            let (host, port) = self.host(d);
            let name = &d.name;
            let own = if d.is_wildcard() { "NAME" } else { name };
            if (&host, port) != (&home.host, home.port) {
                self.tell(
                    &d.place,
                    format!(
                        "database {name} is on {host}:{port}, not on {}:{}",
                        home.host, home.port
                    ),
                    format!("It needs a pgshunt of its own: import with `--database {own}`."),
                    true,
                );
                continue;
            }
            let real = d.get("dbname").filter(|n| !n.is_empty()).unwrap_or(name);
            if d.is_wildcard() {
                let advice = "Every database of the home node is served under its own name.";
                self.tell(&d.place, "database *", advice, false);
            } else if real != name {
                let advice =
                    format!("Databases have no other names here: clients must ask for {real}.");
                self.tell(&d.place, format!("database {name} stands for {real}"), advice, true);
            } else if *real != home.database {
                let advice = "It is on the home node and served, without distributed tables.";
                self.tell(&d.place, format!("database {name}"), advice, false);
            }
            self.parameters(d, *real == home.database);
        }
    }

    fn parameters(&mut self, d: &Database, is_home: bool) {
        for (key, value) in &d.parameters {
            let what = format!("{key} = {value} of database {}", d.name);
            match key.as_str() {
                "dbname" => {}
                "host" if value.contains(',') => {
                    let advice =
                        "The first one is the home node; a replica is reached without pgshunt.";
                    self.say(&d.place, what, Fate::Lack(advice));
                }
                "host" | "port" => {}
                // Whatever it is, it is not repeated.
                "user" | "password" => {
                    let advice = "pgshunt logs in to the nodes as the client's own role, with its password: \
                                  no role is forced upon others.";
                    self.say(&d.place, format!("{key} of database {}", d.name), Fate::Lack(advice));
                }
                "pool_size" if is_home => {}
                "pool_size" => {
                    let advice = "[pool] size holds for all databases.";
                    self.say(&d.place, what, Fate::Lack(advice));
                }
                other => {
                    let known = OF_DATABASE.iter().find(|p| p.0 == other);
                    let unknown = Fate::Lack("pgshunt has no such parameter.");
                    self.say(&d.place, what, known.map_or(unknown, |p| p.1));
                }
            }
        }
    }

    /// `[users]`.
    fn users(&mut self) {
        for e in self.entries.iter().filter(|e| e.section == "users") {
            let what = format!("{} for user {}", e.value, e.key);
            let advice = "Limits of one role are the nodes' own: ALTER ROLE ... CONNECTION LIMIT n. The pool's \
                          size is the same for all.";
            self.say(&e.place, what, Fate::Lack(advice));
        }
    }

    /// A path as PgBouncer's working directory or the file's own has it.
    pub fn beside(&self, name: &str) -> PathBuf {
        let beside = self.file.parent().unwrap_or(Path::new("")).join(name);
        if beside.exists() { beside } else { PathBuf::from(name) }
    }

    fn listen(&mut self) -> String {
        let (place, given) = (self.place("listen_addr"), self.setting("listen_addr").to_owned());
        let port = match self.number("listen_port") {
            port @ 1..=65_535 => port,
            _ => 6432,
        };
        let mut addresses = given.split(',').map(str::trim).filter(|a| !a.is_empty());
        let first = addresses.next();
        if addresses.next().is_some() {
            let what = format!("listen_addr = {given}");
            let advice =
                "There is one address to listen on; the first was taken. 0.0.0.0 and [::] are all.";
            self.say(&place, what, Fate::Lack(advice));
        }
        match first {
            Some("*") => format!("0.0.0.0:{port}"),
            Some("localhost") => format!("127.0.0.1:{port}"),
            Some(address) => match address.parse::<std::net::IpAddr>() {
                Ok(ip) => std::net::SocketAddr::new(ip, port as u16).to_string(),
                Err(_) => {
                    let advice =
                        "[server] listen takes an address, not a name; 127.0.0.1 was taken.";
                    self.say(&place, format!("listen_addr = {address}"), Fate::Lack(advice));
                    format!("127.0.0.1:{port}")
                }
            },
            None => {
                let what = "no listen_addr: PgBouncer listens on its Unix socket only";
                let advice = "pgshunt listens on TCP too; 127.0.0.1 was taken.";
                self.say(&place, what, Fate::Note(advice));
                format!("127.0.0.1:{port}")
            }
        }
    }

    fn unix_socket_dir(&mut self) -> Option<String> {
        let dir = self.given("unix_socket_dir")?;
        if dir.starts_with('/') {
            return Some(dir);
        }
        let (place, what) = (self.place("unix_socket_dir"), format!("unix_socket_dir = {dir}"));
        let advice = "[server] unix_socket_dir takes a whole path; there is no Unix socket now.";
        self.say(&place, what, Fate::Lack(advice));
        None
    }

    fn unix_socket_mode(&mut self) -> Option<u32> {
        let mode = self.setting("unix_socket_mode").trim_start_matches("0o").to_owned();
        let parsed = u32::from_str_radix(&mode, 8).ok().filter(|m| *m <= 0o777);
        if parsed.is_none() {
            let (place, what) =
                (self.place("unix_socket_mode"), format!("unix_socket_mode = {mode}"));
            self.say(&place, what, Fate::Lack("It is not a mode like 0770; 0777 was taken."));
        }
        parsed
    }

    fn node_tls(&mut self) -> (&'static str, Option<String>) {
        let roots = self.given("server_tls_ca_file");
        let mode = self.setting("server_tls_sslmode").to_owned();
        let (place, what) =
            (self.place("server_tls_sslmode"), format!("server_tls_sslmode = {mode}"));
        let wanted = match mode.as_str() {
            "disable" => "disable",
            "allow" | "prefer" => "prefer",
            "require" => "require",
            "verify-full" => "verify-full",
            "verify-ca" => {
                let advice = "\"verify-full\" was taken, which compares the host's name too.";
                self.say(&place, what.clone(), Fate::Lack(advice));
                "verify-full"
            }
            _ => {
                self.say(
                    &place,
                    what.clone(),
                    Fate::Lack("PgBouncer has no such mode; \"prefer\" was taken."),
                );
                "prefer"
            }
        };
        if wanted == "verify-full" && roots.is_none() {
            let advice = "It needs server_tls_ca_file: the system's roots are not used. \"require\" was taken, which \
                          checks nothing.";
            self.say(&place, what, Fate::Lack(advice));
            return ("require", roots);
        }
        (wanted, roots)
    }

    fn pool_mode(&mut self) {
        let (place, mode) = (self.place("pool_mode"), self.setting("pool_mode").to_owned());
        let what = format!("pool_mode = {mode}");
        match mode.as_str() {
            "transaction" => {}
            "session" => {
                let advice = "A client has a server connection for the time of its transaction. What a session keeps \
                              there (temporary tables, advisory locks, ...) makes it keep the connection: SHOW \
                              CLIENTS says why.";
                self.say(&place, what, Fate::Note(advice));
            }
            "statement" => {
                let advice = "Transactions of several statements are not refused.";
                self.say(&place, what, Fate::Lack(advice));
            }
            _ => self.say(&place, what, Fate::Lack("PgBouncer has no such mode.")),
        }
    }
}
