//! The command line: what to do, and what to say when it cannot be done.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "commands that people run")]

use std::error::Error;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{Config, Log, LogFormat};
use crate::demo::playground::{self, Playground};
use crate::demo::{self, DemoOptions};
use crate::{app, check, import};

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
    /// Serve until SIGTERM, then let open transactions end
    Serve(ServeArgs),
    /// Validate the configuration, and say in words what the nodes lack
    Check(ConfigArgs),
    /// Write pgshunt's configuration from PgBouncer's, and say what has no counterpart
    #[command(after_help = IMPORT_ENDS)]
    Import(ImportArgs),
    /// Start three local PostgreSQL nodes and show a shard move under live traffic
    Demo(DemoArgs),
    /// Start local PostgreSQL nodes and pgshunt over them, empty, until Ctrl-C
    Local(LocalArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file; config/pgshunt.toml documents every key
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Take over from the pgshunt that runs with this configuration: its listening sockets and its
    /// clients, who notice nothing. Needs server.takeover_socket
    #[arg(long)]
    takeover: bool,
}

const IMPORT_ENDS: &str = "Ends with 0 when everything has a counterpart, with 3 when something has \
none and must be looked at, with 1 when nothing was written.";

#[derive(Debug, Args)]
struct ImportArgs {
    /// PgBouncer's configuration file; auth_file and auth_hba_file are read from where it says
    #[arg(value_name = "PGBOUNCER.INI")]
    file: PathBuf,
    /// Where to write the configuration; left out: to the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which of its databases may have distributed tables; left out: the first
    #[arg(short, long, value_name = "NAME")]
    database: Option<String>,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Leave everything running afterwards, and say how to connect
    #[arg(long)]
    keep: bool,
    /// How long the clients run besides the moves
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How many clients there are
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=100))]
    connections: u16,
    /// How many rows the table begins with
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(i32).range(1000..=10_000_000))]
    rows: i32,
}

#[derive(Debug, Args)]
struct LocalArgs {
    /// How many nodes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
    /// How many of them the cluster begins with; the others wait for an ADD NODE
    #[arg(long, value_name = "N", default_value_t = 2)]
    in_use: u8,
    /// Where pgshunt listens on 127.0.0.1; 0 for a free port
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Runs the program. 0: all is well; 1: it is not, and the reason is on the error output; 2: the
/// command line makes no sense.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve(&args),
        Command::Check(args) => check(&args.config),
        Command::Import(args) => return import_pgbouncer(&args),
        Command::Demo(args) => demo(&args),
        Command::Local(args) => local(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pgshunt: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<bool, Box<dyn Error>>;

fn serve(args: &ServeArgs) -> Outcome {
    let path = &args.config.config;
    let config = Config::load(path)?;
    let set_filter = start_logging(&config.log);
    app::serve(config, app::Source { file: path.to_owned(), set_filter }, args.takeover)?;
    Ok(true)
}

fn check(path: &Path) -> Outcome {
    let config = Config::load(path)?;
    drop(start_logging(&Log { filter: "warn".into(), ..config.log.clone() }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(check::run(&config));
    println!("{report}");
    Ok(report.is_ok())
}

fn import_pgbouncer(args: &ImportArgs) -> ExitCode {
    const LACKS: u8 = 3;
    match write_import(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(LACKS),
        Err(error) => {
            eprintln!("pgshunt: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_import(args: &ImportArgs) -> Outcome {
    let imported = import::import(&args.file, args.database.as_deref())?;
    match &args.output {
        None => print!("{}", imported.toml),
        Some(path) => {
            let mut file = File::create_new(path)
                .map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
            file.write_all(imported.toml.as_bytes())?;
        }
    }
    eprint!("{imported}");
    if let Some(path) = &args.output {
        let path = path.display();
        eprintln!("{path} is written. Next: `pgshunt check --config {path}` looks at the nodes.");
    }
    Ok(imported.is_whole())
}

fn demo(args: &DemoArgs) -> Outcome {
    drop(start_logging(&Log { filter: "warn".into(), format: LogFormat::Text }));
    let DemoArgs { keep, seconds, connections, rows } = *args;
    Ok(demo::run(&DemoOptions { keep, seconds, connections, rows })?)
}

fn local(args: &LocalArgs) -> Outcome {
    if args.in_use == 0 || args.in_use > args.nodes {
        return Err(format!("--in-use is between 1 and --nodes, which is {}", args.nodes).into());
    }
    drop(start_logging(&Log { filter: "warn".into(), format: LogFormat::Text }));
    playground::run(Playground {
        nodes: args.nodes.into(),
        in_use: args.in_use.into(),
        port: args.port,
    })?;
    Ok(true)
}

/// To the error output. RUST_LOG wins over the configuration, for the time one looks for something.
/// Gives what sets another filter.
fn start_logging(log: &Log) -> app::SetFilter {
    let asked = EnvFilter::try_from_default_env();
    let overruled = asked.is_ok();
    let filter = asked
        .or_else(|_| EnvFilter::try_new(&log.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    let set: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync> = match log.format {
        LogFormat::Text => {
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let lines = lines.json().with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Box::new(move |filter| handle.reload(filter))
        }
    };
    Box::new(move |text| {
        let filter = EnvFilter::try_new(text).map_err(|e| e.to_string())?;
        if !overruled {
            set(filter).map_err(|e| e.to_string())?;
        }
        Ok(!overruled)
    })
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
