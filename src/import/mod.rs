//! `pgshunt import pgbouncer.ini`: PgBouncer's configuration, as pgshunt's.
//!
//! Reads the ini with what it includes, the auth_file and the auth_hba_file; writes a configuration
//! that `pgshunt check` accepts, and says of each setting that has no counterpart what to do about it.
//! A setting at PgBouncer's default counts as set where pgshunt's default is another one, so that
//! what people had goes on as it was. Passwords are copied nowhere.

mod auth;
mod hba;
mod ini;
mod plan;
mod settings;
mod write;

use std::fmt;
use std::path::Path;

pub use ini::IniError;

use crate::config::{Config, ConfigError};

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Ini(#[from] IniError),
    #[error("{0}")]
    Database(String),
    #[error("what was written is not a configuration: {0}")]
    Config(#[from] ConfigError),
}

/// Something about the old configuration that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands, `file:line`, or the file it is about.
    pub place: String,
    pub what: String,
    /// What to do, or why nothing is to be done.
    pub advice: String,
    /// Nothing of ours does it: somebody has to look at this.
    pub is_lack: bool,
}

/// What came of an import.
#[derive(Debug)]
pub struct Imported {
    pub toml: String,
    pub findings: Vec<Finding>,
}

impl Imported {
    /// Everything has its counterpart.
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|f| !f.is_lack)
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (lacks, title) in [
            (true, "Without a counterpart, to be looked at:"),
            (false, "Nothing to be done about:"),
        ] {
            let mut findings = self.findings.iter().filter(|f| f.is_lack == lacks).peekable();
            if findings.peek().is_some() {
                writeln!(f, "{title}")?;
            }
            for finding in findings {
                writeln!(f, "  {}: {}", finding.place, finding.what)?;
                writeln!(f, "      {}", finding.advice)?;
            }
        }
        Ok(())
    }
}

/// Reads PgBouncer's configuration. `database`: which of its databases is the cluster's, when there
/// are several.
pub fn import(path: &Path, database: Option<&str>) -> Result<Imported, ImportError> {
    let entries = ini::read(path)?;
    let (plan, findings) = plan::make(&entries, path, database)?;
    let toml = write::config(&plan, path, &findings);
    Config::parse(&toml, Path::new("pgshunt.toml"), None)?;
    Ok(Imported { toml, findings })
}
