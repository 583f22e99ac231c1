//! The data directory every node starts as: `initdb` runs once per server version, then is copied.
//!
//! Tests are many threads of several processes and all want the template at once. A lock file
//! decides who makes it; it is made under another name and renamed, so a template that exists is
//! whole.

#![expect(unsafe_code, reason = "a file is locked by the C library")]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::Account;
use super::{Binaries, DATABASE, LocalError, PASSWORD, SUPERUSER, at};

/// Raised when the recipe below changes, so that an old template is not used.
const RECIPE: u32 = 1;

/// The template for `binaries`, made now if it is missing.
pub fn template(account: Account, binaries: &Binaries, base: &Path) -> Result<PathBuf, LocalError> {
    let version: String = binaries
        .version()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let path = base.join(format!("template-{version}-{SUPERUSER}-{RECIPE}"));
    if path.exists() {
        return Ok(path);
    }
    let _lock = Lock::take(&base.join("template.lock"))?;
    if !path.exists() {
        let unfinished = base.join("template.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(at("removing", &unfinished))?;
        }
        make(account, binaries, &unfinished)?;
        fs::rename(&unfinished, &path).map_err(at("renaming", &unfinished))?;
    }
    Ok(path)
}

fn make(account: Account, binaries: &Binaries, dir: &Path) -> Result<(), LocalError> {
    let password = dir.with_extension("password");
    fs::write(&password, PASSWORD).map_err(at("writing", &password))?;
    account.give(&password)?;
    let made = run(
        "initdb",
        account.run(
            Command::new(binaries.program("initdb"))
                .arg("-D")
                .arg(dir)
                .args(["-U", SUPERUSER, "--encoding=UTF8", "--no-locale", "--no-sync"])
                .args(["--auth=scram-sha-256", "--no-instructions"])
                .arg("--pwfile")
                .arg(&password),
        ),
        "",
    );
    fs::remove_file(&password).map_err(at("removing", &password))?;
    made?;
    // The cluster's database is part of the template: a single-user server makes it without a
    // connection, and no node pays for it again.
    run(
        "postgres --single",
        account.run(
            Command::new(binaries.program("postgres"))
                .args(["--single", "-c", "fsync=off", "-D"])
                .arg(dir)
                .arg("postgres"),
        ),
        &format!("CREATE DATABASE {DATABASE}\n"),
    )
}

pub fn run(program: &'static str, command: &mut Command, input: &str) -> Result<(), LocalError> {
    let failed = |output: String| LocalError::Program { program, output };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|e| failed(e.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // A single-user server reports a failed statement and still exits with 0.
    if !output.status.success() || text.contains("ERROR:") {
        return Err(failed(text + &String::from_utf8_lossy(&output.stdout)));
    }
    Ok(())
}

/// Copies a template to `to`, every file owned by `account`. Modes are copied too.
pub fn copy(account: Account, from: &Path, to: &Path) -> Result<(), LocalError> {
    account.make_dir(to)?;
    for entry in fs::read_dir(from).map_err(at("reading", from))? {
        let entry = entry.map_err(at("reading", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(at("examining", &source))?;
        if kind.is_dir() {
            copy(account, &source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(at("copying", &source))?;
            account.give(&target)?;
        }
    }
    Ok(())
}

/// An exclusive lock on a file, shared by all processes of this machine and given back when the
/// process that holds it ends in whatever way.
struct Lock(File);

impl Lock {
    fn take(path: &Path) -> Result<Self, LocalError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(at("opening", path))?;
        loop {
            // SAFETY: the descriptor is open for the whole call.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } == 0 {
                return Ok(Self(file));
            }
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(at("locking", path)(error));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: as above. Closing the file would do; a fork in another thread may still hold it.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}
