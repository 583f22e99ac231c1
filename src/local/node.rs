//! One local server: start, stop, crash and start again on the same port.

#![expect(
    clippy::disallowed_methods,
    reason = "nothing is served here: it waits for a server of tests"
)]
#![expect(unsafe_code, reason = "a server is sent signals")]

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::account::Account;
use super::watchdog::Watchdog;
use super::{Binaries, LocalError, at, template};
use crate::config::ClusterNode;

/// How long a start or a stop may take on a machine with everything else to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition that has no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// What every node needs to take part in moves, and what keeps many of them small.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "32MB"),
    ("wal_level", "logical"),
    ("max_wal_senders", "40"),
    ("max_replication_slots", "40"),
    ("max_logical_replication_workers", "30"),
    ("max_sync_workers_per_subscription", "4"),
    ("max_worker_processes", "50"),
    ("max_prepared_transactions", "50"),
    ("wal_retrieve_retry_interval", "200ms"),
    ("max_wal_size", "1GB"),
    ("huge_pages", "off"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
];

/// A crash of the machine loses such a node's data; a crash of the server does not.
const VOLATILE: &[(&str, &str)] = &[("fsync", "off"), ("full_page_writes", "off")];

#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The node's name in the configuration and the catalog.
    pub name: String,
    /// Whether data survives a crash of the machine. Tests do without and are faster.
    pub durable: bool,
    /// Lines for postgresql.conf that come last and so win.
    pub settings: Vec<(String, String)>,
    /// The directory of the server programs; `None`: where [`Binaries::find`] finds them.
    pub programs: Option<PathBuf>,
}

impl NodeOptions {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), durable: false, settings: Vec::new(), programs: None }
    }

    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }
}

/// PostgreSQL's three ways to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Rolls open transactions back and writes a checkpoint.
    Fast,
    /// No checkpoint; the next start recovers from the log.
    Immediate,
}

impl StopMode {
    fn signal(self) -> i32 {
        match self {
            StopMode::Smart => libc::SIGTERM,
            StopMode::Fast => libc::SIGINT,
            StopMode::Immediate => libc::SIGQUIT,
        }
    }
}

/// A running server, or one that was stopped and can be started again. Dropping it stops the server
/// at once and removes its data.
#[derive(Debug)]
pub struct LocalNode {
    name: String,
    port: u16,
    dir: PathBuf,
    account: Account,
    binaries: Binaries,
    server: Option<Child>,
    watchdog: Watchdog,
}

impl LocalNode {
    pub fn start(options: NodeOptions) -> Result<Self, LocalError> {
        let binaries = match &options.programs {
            Some(dir) => Binaries::in_dir(dir).ok_or(LocalError::NoBinaries)?,
            None => Binaries::find()?,
        };
        let account = Account::choose()?;
        let base = account.base(options.durable)?;
        let template = template::template(account, &binaries, &base)?;
        let dir = fresh_dir(account, &base)?;
        let watchdog =
            Watchdog::start(account, &dir).map_err(at("starting a watchdog of", &dir))?;
        let mut node =
            Self { name: options.name, port: 0, dir, account, binaries, server: None, watchdog };
        template::copy(account, &template, &node.data_dir())?;
        let volatile = if options.durable { &[][..] } else { VOLATILE };
        let own = options.settings.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        node.number_its_own()?;
        node.configure(SETTINGS.iter().chain(volatile).copied().chain(own))?;
        // The kernel's free port may be taken by another process before the server binds it.
        for attempt in 1.. {
            node.port = free_port().map_err(at("finding a free port for", &node.dir))?;
            match node.launch() {
                Err(LocalError::Start { log, .. }) if attempt < 5 && port_was_taken(&log) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        Ok(node)
    }

    /// Lets the node's OIDs begin elsewhere than other nodes', as on servers with a history. Where
    /// `pg_resetwal` is not among the programs they begin alike.
    fn number_its_own(&self) -> Result<(), LocalError> {
        let program = self.binaries.program("pg_resetwal");
        if !program.is_file() {
            return Ok(());
        }
        let oid = first_oid(&self.name).to_string();
        let mut reset = Command::new(program);
        reset.args(["-o", &oid, "-D"]).arg(self.data_dir());
        template::run("pg_resetwal", self.account.run(&mut reset), "")
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The node's entry in a configuration's `cluster.nodes`.
    pub fn config_node(&self) -> ClusterNode {
        ClusterNode { name: self.name.clone(), host: "127.0.0.1".into(), port: self.port }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The server's log since the node was made.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|s| matches!(s.try_wait(), Ok(None)))
    }

    /// Ends the server and waits until it is gone. Nothing happens when it is not running.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), LocalError> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let asked = Instant::now();
        signal(server.id(), mode.signal());
        while matches!(server.try_wait(), Ok(None)) {
            if asked.elapsed() > PATIENCE {
                return Err(LocalError::Stop { after: PATIENCE });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.server = None;
        self.watch_nothing()
    }

    /// Kills the server and all its processes in one blow, as a power cut would: nothing is
    /// answered, no statement runs to its end.
    pub fn kill(&mut self) -> Result<(), LocalError> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        // Frozen first: a postmaster that sees a child die starts new ones.
        signal(server.id(), libc::SIGSTOP);
        let children = children_of(server.id());
        for pid in &children {
            signal(*pid, libc::SIGKILL);
        }
        signal(server.id(), libc::SIGKILL);
        server.wait().map_err(at("waiting for the server in", &self.dir))?;
        self.watch_nothing()
    }

    /// Stops all of the server's processes where they are, as a machine that hangs would.
    pub fn freeze(&self) {
        self.signal_all(libc::SIGSTOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal_all(libc::SIGCONT);
    }

    /// Starts a server that was stopped or killed, or stops and starts a running one. Same port.
    pub fn restart(&mut self) -> Result<(), LocalError> {
        self.stop(StopMode::Fast)?;
        let asked = Instant::now();
        loop {
            match self.launch() {
                // After a kill the last children may still be attached to the shared memory; and a
                // client's own connection may sit on the port for a moment.
                Err(LocalError::Start { log, .. })
                    if asked.elapsed() < PATIENCE
                        && (port_was_taken(&log) || log.contains("shared memory block")) =>
                {
                    std::thread::sleep(LOOK_AGAIN);
                }
                other => return other,
            }
        }
    }

    fn launch(&mut self) -> Result<(), LocalError> {
        let log = self.log_path();
        let out =
            File::options().append(true).create(true).open(&log).map_err(at("opening", &log))?;
        let said_before = out.metadata().map(|m| m.len()).unwrap_or(0);
        let errors = out.try_clone().map_err(at("opening", &log))?;
        // A pid file of a killed server would be taken for the new one's.
        let pid_file = self.data_dir().join("postmaster.pid");
        let mut command = Command::new(self.binaries.program("postgres"));
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(&self.dir);
        command.args(["-p", &self.port.to_string()]);
        command.stdin(Stdio::null()).stdout(out).stderr(errors).process_group(0);
        let server = self
            .account
            .run(&mut command)
            .spawn()
            .map_err(at("starting a server in", &self.dir))?;
        let pid = server.id();
        let server = self.server.insert(server);
        self.watchdog.watch(pid).map_err(at("telling the watchdog of", &self.dir))?;

        let asked = Instant::now();
        let reason = loop {
            if is_ready(&pid_file, pid) {
                return Ok(());
            }
            if let Ok(Some(status)) = server.try_wait() {
                break status.to_string();
            }
            if asked.elapsed() > PATIENCE {
                break format!("not ready after {PATIENCE:?}");
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        self.stop(StopMode::Immediate)?;
        let all = fs::read(&log).unwrap_or_default();
        let new = all.get(usize::try_from(said_before).unwrap_or(0)..).unwrap_or_default();
        Err(LocalError::Start { reason, log: String::from_utf8_lossy(new).into_owned() })
    }

    fn configure<'a>(
        &self,
        settings: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), LocalError> {
        let path = self.data_dir().join("postgresql.conf");
        let mut text = String::from("\n# pgshunt: a local node\n");
        for (key, value) in settings {
            text += &format!("{key} = '{}'\n", value.replace('\'', "''"));
        }
        let mut file = File::options().append(true).open(&path).map_err(at("opening", &path))?;
        file.write_all(text.as_bytes()).map_err(at("writing", &path))
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn watch_nothing(&mut self) -> Result<(), LocalError> {
        self.watchdog.watch(0).map_err(at("telling the watchdog of", &self.dir))
    }

    fn signal_all(&self, number: i32) {
        let Some(server) = &self.server else { return };
        signal(server.id(), number);
        for pid in children_of(server.id()) {
            signal(pid, number);
        }
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        self.thaw();
        if self.stop(StopMode::Immediate).is_err()
            && let Some(mut server) = self.server.take()
        {
            let _ = server.kill();
            let _ = server.wait();
        }
        // The watchdog removes the directory; it owns it, which we may not.
        let _ = self.watchdog.finish();
    }
}

/// Where a node's object ids begin. Copies of one template would give the same table the same id on
/// every node, and an id taken from the wrong node would go unnoticed. Told by the name alone, so
/// that a failure can be repeated.
fn first_oid(name: &str) -> u32 {
    let hash = name.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    20_000 + (hash % 10_000) * 1_000
}

/// A directory no other node of any process has.
fn fresh_dir(account: Account, base: &Path) -> Result<PathBuf, LocalError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = base.join(format!("node-{}-{number}", std::process::id()));
        match account.make_dir(&dir) {
            Ok(()) => return Ok(dir),
            // Left behind by a process of the same id whose watchdog was killed too.
            Err(LocalError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn port_was_taken(log: &str) -> bool {
    log.contains("could not create any TCP/IP sockets") || log.contains("could not bind IPv4")
}

/// Whether the server with this process id wrote `ready` into the eighth line of its pid file,
/// which is what `pg_ctl -w` waits for.
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(pid_file) else { return false };
    let mut lines = text.lines();
    let same = lines.next().and_then(|l| l.trim().parse().ok()) == Some(pid);
    same && lines.nth(6).is_some_and(|l| l.trim() == "ready")
}

fn signal(pid: u32, number: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: sends a signal, touches no memory. The callers hold the child unreaped, so the
        // id is still its own.
        unsafe { libc::kill(pid, number) };
    }
}

/// The processes whose parent is `pid`, read from /proc; none where there is no /proc.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|candidate: &u32| parent_of(*candidate) == Some(pid))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything; the fields follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
