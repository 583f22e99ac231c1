//! Stops a server when the process that started it dies without a goodbye.
//!
//! The kernel's parent-death signal is of no use here: it follows the *thread* that started the
//! child, and test threads come and go. So a shell waits at the end of a pipe. We write the
//! server's process id into it; when the pipe closes, because we dropped it or because we were
//! killed, the shell stops that process and removes the directory.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::account::Account;

/// Reads process ids until the pipe closes, 0 for none. An immediate shutdown first (SIGQUIT), as
/// the postmaster then takes its children along; SIGKILL for one that does not obey.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pid=0
while read -r next; do pid=$next; done
if [ "$pid" -gt 0 ] && kill -QUIT "$pid" 2>/dev/null; then
    tries=0
    while [ $tries -lt 50 ] && kill -0 "$pid" 2>/dev/null; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL "$pid" 2>/dev/null
fi
case "$1" in */pgshunt-*/node-*) rm -rf -- "$1" ;; esac
"#;

#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Watches over the directory of one node. The shell has a process group of its own, so that a
    /// Ctrl-C meant for us does not end it before its work.
    pub fn start(account: Account, dir: &Path) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "pgshunt-watchdog"]).arg(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let shell = account.run(command.process_group(0)).spawn()?;
        Ok(Self { shell })
    }

    /// The process to stop from now on.
    pub fn watch(&mut self, pid: u32) -> io::Result<()> {
        match &mut self.shell.stdin {
            Some(pipe) => writeln!(pipe, "{pid}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Closes the pipe and waits until the shell has cleaned up.
    pub fn finish(&mut self) -> io::Result<()> {
        drop(self.shell.stdin.take());
        self.shell.wait().map(drop)
    }
}
