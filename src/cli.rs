//! The command line: what to do, and what to say when it cannot be done.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Log, LogFormat};

/// A PostgreSQL proxy that pools connections, routes statements by hash partition and moves shards
/// between nodes under live traffic.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until SIGTERM
    Serve(ConfigArgs),
    /// Validate the configuration
    Check(ConfigArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file; config/pgshunt.toml documents every key
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the program. 0: all is well; 1: it is not, and the reason is on the error output; 2: the
/// command line makes no sense.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => {
            Config::load(&args.config).map_err(|e| e.to_string()).and_then(|config| {
                start_logging(&config.log);
                crate::app::serve(config).map(|()| true).map_err(|e| e.to_string())
            })
        }
        Command::Check(args) => {
            Config::load(&args.config).map_err(|e| e.to_string()).map(|config| {
                start_logging(&config.log);
                println!("{} is valid", args.config.display());
                true
            })
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("pgshunt: {message}");
            ExitCode::FAILURE
        }
    }
}

/// To the error output. RUST_LOG wins over the configuration, for the time one looks for something.
fn start_logging(log: &Log) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&log.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
