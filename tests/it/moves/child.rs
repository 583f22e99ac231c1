//! The real program in a process of its own, so that it can die.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgshunt::config::Config;

use crate::support::{PATIENCE, wait_for};

/// A directory for configuration and log of the children of one test.
pub struct Home {
    dir: PathBuf,
    config: PathBuf,
}

impl Home {
    pub fn new(config: &Config) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pgshunt-it-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let path = dir.join("pgshunt.toml");
        std::fs::write(&path, toml(config)).unwrap();
        Self { dir, config: path }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What the children have said on their error output.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Left behind, it would only be litter.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn toml(c: &Config) -> String {
    let mut text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\n\
         [cluster]\ndatabase = '{}'\nservice_user = '{}'\nservice_password = '{}'\n",
        c.cluster.database,
        c.cluster.service_user,
        c.cluster.service_password.as_deref().unwrap_or_default()
    );
    for n in &c.cluster.nodes {
        text += &format!(
            "[[cluster.nodes]]\nname = '{}'\nhost = '{}'\nport = {}\n",
            n.name, n.host, n.port
        );
    }
    text
}

/// `pgshunt serve`, killed when dropped.
pub struct Served {
    process: Child,
    pub port: u16,
}

impl Served {
    /// Starts it and waits until it listens. `failpoint`: where it dies (or stops) on its own.
    pub async fn start(home: &Home, failpoint: Option<&str>) -> Self {
        let log = File::options().append(true).create(true).open(home.log()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgshunt"));
        command.args(["serve", "--config"]).arg(&home.config).stderr(log).stdout(Stdio::piped());
        if let Some(point) = failpoint {
            command.env("PGSHUNT_FAILPOINT", point);
        }
        // SAFETY: prctl() is async-signal-safe and touches no memory. A test that is killed takes the
        // program with it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut process = command.spawn().unwrap();
        let out = process.stdout.take().unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).unwrap();
            line
        });
        let line = line.await.unwrap();
        let port = line.trim().rsplit(':').next().and_then(|p| p.parse().ok());
        let port = port.unwrap_or_else(|| panic!("it does not listen ({line:?}): {}", home.said()));
        Self { process, port }
    }

    pub fn is_gone(&mut self) -> bool {
        self.status().is_some()
    }

    /// Waits until it has died of its failpoint.
    pub async fn dies(&mut self) {
        let since = Instant::now();
        while !self.is_gone() {
            assert!(since.elapsed() < PATIENCE, "waited in vain for the process to die");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM, and the wait for it to have effect.
    pub async fn end(&mut self) {
        self.signal(libc::SIGTERM);
        let since = Instant::now();
        while !self.is_gone() {
            assert!(since.elapsed() < 2 * PATIENCE, "pgshunt does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill() has no memory effects; the process is our child and not reaped.
        let done = unsafe { libc::kill(self.process.id() as i32, signal) };
        assert_eq!(done, 0, "signal {signal}");
    }

    /// Waits until a failpoint with the action `stop` has stopped the process.
    pub async fn stopped(&self) {
        wait_for("the process to be stopped", async || self.is_stopped().then_some(())).await;
    }

    pub fn is_stopped(&self) -> bool {
        let stat = format!("/proc/{}/stat", self.process.id());
        let text = std::fs::read_to_string(stat).unwrap();
        let state = text.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        state == Some("T")
    }

    /// Lets a stopped process go on.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have died already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
