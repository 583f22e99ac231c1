//! Where PostgreSQL's server programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::LocalError;

/// A directory that holds `postgres` and `initdb`.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
    /// What `postgres --version` says: `postgres (PostgreSQL) 15.10 (Debian 15.10-0+deb12u1)`.
    version: String,
}

impl Binaries {
    /// Looks in `PG_BIN` first, and only there when it is set; then in PATH, then where `pg_config`
    /// points, then in the places distributions use, newest major version first.
    pub fn find() -> Result<Self, LocalError> {
        if let Some(dir) = std::env::var_os("PG_BIN") {
            return Self::in_dir(Path::new(&dir)).ok_or(LocalError::NoBinaries);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(pg_config_dir())
            .chain(distribution_dirs())
            .find_map(|dir| Self::in_dir(&dir))
            .ok_or(LocalError::NoBinaries)
    }

    /// The programs of one directory, or of the one that its `initdb` is a link to.
    pub fn in_dir(dir: &Path) -> Option<Self> {
        // Often a few links in a directory of PATH: the programs stand together where they lead.
        let initdb = dir.join("initdb").canonicalize().ok()?;
        let dir = initdb.parent()?;
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        output.status.success().then(|| Self {
            dir: dir.to_owned(),
            version: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn version(&self) -> &str {
        &self.version
    }
}

fn pg_config_dir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

fn distribution_dirs() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    // Debian and Ubuntu; PGDG on Red Hat; Homebrew.
    for (root, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        let Ok(entries) = std::fs::read_dir(root) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let major = name.to_str().and_then(|n| n.strip_prefix(prefix)?.parse().ok());
            if let Some(major) = major {
                found.push((major, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, dir)| dir).collect()
}
