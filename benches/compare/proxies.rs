//! The proxies that are compared: each a process over the same node, with a pool of the same size.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgshunt::local::{Account, DATABASE, LocalCluster, PASSWORD, SUPERUSER};

use super::Error;

pub const PGBOUNCER: &str = "PgBouncer";
pub const HAPROXY: &str = "HAProxy";
const PGSHUNT: &str = "pgshunt";

/// How pgbench sends a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Simple, Mode::Extended, Mode::Prepared];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Simple => "simple",
            Mode::Extended => "extended",
            Mode::Prepared => "prepared",
        }
    }
}

pub struct Proxy {
    name: &'static str,
    process: Server,
    /// Serves prepared mode in its place.
    for_prepared: Option<Server>,
    note: Option<String>,
}

impl Proxy {
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    pub fn port(&self, mode: Mode) -> u16 {
        self.server(mode).port
    }

    /// User and system time of the process and all its threads so far.
    pub fn cpu_seconds(&self, mode: Mode) -> Result<f64, Error> {
        let pid = self.server(mode).child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("a strange /proc/<pid>/stat")?;
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        match (ticks.next(), ticks.next()) {
            // A tick is 10 ms everywhere Linux runs pgshunt.
            (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) as f64 / 100.0),
            _ => Err("a strange /proc/<pid>/stat".into()),
        }
    }

    fn server(&self, mode: Mode) -> &Server {
        match &self.for_prepared {
            Some(server) if mode == Mode::Prepared => server,
            _ => &self.process,
        }
    }
}

/// A process that listens; ended when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(command: &mut Command, port: u16, log: &Path) -> Result<Self, Error> {
        let out = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|e| format!("{command:?}: {e}"))?;
        let mut server = Self { child, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait()?.is_some();
            if ended || start.elapsed() > Duration::from_secs(20) {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{command:?} does not listen:\n{said}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn start_all(cluster: &LocalCluster) -> Result<Vec<Proxy>, Error> {
    let node = cluster.nodes.first().ok_or("no node")?.port();
    let account = Account::choose()?;
    let dir = account.base(false)?.join(format!("compare-{}", std::process::id()));
    account.make_dir(&dir)?;
    let started = (|| {
        Ok(vec![haproxy(node, &dir)?, pgbouncer(node, &dir, account)?, pgshunt(cluster, &dir)?])
    })();
    // Every process has read its files by now.
    let _ = fs::remove_dir_all(&dir);
    started
}

fn free_port() -> Result<u16, Error> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn write(path: PathBuf, text: &str) -> Result<PathBuf, Error> {
    fs::write(&path, text)?;
    Ok(path)
}

fn haproxy(node: u16, dir: &Path) -> Result<Proxy, Error> {
    let port = free_port()?;
    let config = write(
        dir.join("haproxy.cfg"),
        &format!(
            "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\nlisten postgres\n  bind 127.0.0.1:{port}\n  \
             server node 127.0.0.1:{node}\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    // -db: in the foreground, one process.
    let process =
        Server::start(command.arg("-db").arg("-f").arg(config), port, &dir.join("h.log"))?;
    Ok(Proxy { name: HAPROXY, process, for_prepared: None, note: None })
}

fn pgbouncer(node: u16, dir: &Path, account: Account) -> Result<Proxy, Error> {
    let version = Command::new("pgbouncer").arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let knows_prepared = (parts.next(), parts.next()) >= (Some(1), Some(21));

    let users = write(dir.join("users.txt"), &format!("\"{SUPERUSER}\" \"{PASSWORD}\"\n"))?;
    account.give(&users)?;
    let start = |pool_mode: &str| -> Result<Server, Error> {
        let port = free_port()?;
        let more = if knows_prepared { "max_prepared_statements = 200\n" } else { "" };
        let config = write(
            dir.join(format!("{pool_mode}.ini")),
            &format!(
                "[databases]\n{DATABASE} = host=127.0.0.1 port={node} user={SUPERUSER} \
                 password={PASSWORD}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {pool_mode}\n\
                 default_pool_size = 20\nmax_client_conn = 1000\nlog_connections = 0\n\
                 log_disconnections = 0\nserver_tls_sslmode = disable\n{more}",
                users.display()
            ),
        )?;
        account.give(&config)?;
        let mut command = Command::new("pgbouncer");
        let log = dir.join(format!("{pool_mode}.log"));
        Server::start(account.run(command.arg("-q").arg(config)), port, &log)
    };
    let process = start("transaction")?;
    let (for_prepared, note) = if knows_prepared {
        (None, None)
    } else {
        let note = format!(
            "PgBouncer {version} cannot pool prepared statements by transaction: in that mode it \
             pools by session here, which is less work."
        );
        (Some(start("session")?), Some(note))
    };
    Ok(Proxy { name: PGBOUNCER, process, for_prepared, note })
}

/// The binary of this build, with one worker: the others have one thread too.
fn pgshunt(cluster: &LocalCluster, dir: &Path) -> Result<Proxy, Error> {
    let port = free_port()?;
    let node = cluster.nodes.first().ok_or("no node")?;
    let config = write(
        dir.join("pgshunt.toml"),
        &format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nworkers = 1\n[cluster]\n\
             database = \"{DATABASE}\"\nservice_user = \"{SUPERUSER}\"\n\
             service_password = \"{PASSWORD}\"\n[[cluster.nodes]]\nname = \"{}\"\n\
             host = \"127.0.0.1\"\nport = {}\n[tls]\nnodes = \"disable\"\n[pool]\nsize = 20\n",
            node.name(),
            node.port()
        ),
    )?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgshunt"));
    let process =
        Server::start(command.args(["serve", "--config"]).arg(config), port, &dir.join("p.log"))?;
    Ok(Proxy { name: PGSHUNT, process, for_prepared: None, note: None })
}
