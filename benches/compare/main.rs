//! CPU per query of pgshunt beside PgBouncer and HAProxy (TCP mode), in one run.
//!
//! One local PostgreSQL node, `pgbench -S` through each proxy in turn, round by round, so that a
//! machine that grows slower grows slower for all. What is compared is the processor time the proxy
//! itself used (`/proc/<pid>/stat`) divided by the queries that went through it; the median of the
//! rounds counts. Each has one thread. HAProxy only copies bytes and knows nothing of PostgreSQL.
//! Queries per second are shown too, but depend on what else the machine does.
//!
//! `make compare`, or `cargo bench --bench compare -- --seconds 5 --rounds 5 --clients 8`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is printed")]
#![expect(clippy::disallowed_methods, reason = "nothing is served here: it waits for a proxy")]

mod proxies;

use std::process::{Command, ExitCode};

use clap::Parser;
use pgshunt::local::{DATABASE, LocalCluster, PASSWORD, SUPERUSER};

use proxies::{Mode, Proxy};

type Error = Box<dyn std::error::Error>;

#[derive(Debug, Parser)]
struct Options {
    /// How long each measurement takes
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How often each is taken
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// What cargo gives every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match compare(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), Error> {
    let cluster = LocalCluster::start(1)?;
    let node = cluster.nodes.first().ok_or("no node")?;
    pgbench(node.port(), &["-i", "-q", "-s", "5"])?;

    let mut proxies = proxies::start_all(&cluster)?;
    let mut results: Vec<Vec<Vec<Sample>>> = vec![vec![Vec::new(); proxies.len()]; Mode::ALL.len()];
    for round in 1..=options.rounds {
        for (mode, of_mode) in Mode::ALL.into_iter().zip(&mut results) {
            for (proxy, samples) in proxies.iter_mut().zip(of_mode) {
                let sample = measure(proxy, mode, options)?;
                eprintln!(
                    "round {round}: {:<10}{:<12}{:>7.2} us/query",
                    mode.name(),
                    proxy.name(),
                    sample.micros_per_query
                );
                samples.push(sample);
            }
        }
    }

    println!(
        "\n{:<10}{:<12}{:>16}{:>14}{:>14}{:>12}",
        "mode", "proxy", "CPU us/query", "x PgBouncer", "x HAProxy", "queries/s"
    );
    for (mode, of_mode) in Mode::ALL.into_iter().zip(&results) {
        let cpu = |name: &str| {
            let of_proxy = proxies.iter().position(|p| p.name() == name)?;
            Some(median(of_mode.get(of_proxy)?.iter().map(|s| s.micros_per_query)))
        };
        for proxy in &proxies {
            let Some(own) = cpu(proxy.name()) else { continue };
            let ratio = |name: &str| match cpu(name) {
                Some(other) if other > 0.0 => format!("{:.2}", own / other),
                _ => "-".to_owned(),
            };
            let samples = proxies.iter().position(|p| p.name() == proxy.name());
            let samples = samples.and_then(|i| of_mode.get(i));
            println!(
                "{:<10}{:<12}{own:>16.2}{:>14}{:>14}{:>12.0}",
                mode.name(),
                proxy.name(),
                ratio(proxies::PGBOUNCER),
                ratio(proxies::HAPROXY),
                median(samples.into_iter().flatten().map(|s| s.queries_per_second))
            );
        }
    }
    for note in proxies.iter().filter_map(Proxy::note) {
        println!("{note}");
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    micros_per_query: f64,
    queries_per_second: f64,
}

fn measure(proxy: &mut Proxy, mode: Mode, options: &Options) -> Result<Sample, Error> {
    let port = proxy.port(mode);
    let clients = options.clients.to_string();
    // Connections, caches and prepared statements are made before the clock runs.
    let common = ["-S", "-n", "-j", "1", "-c", &clients, "-M", mode.name()];
    pgbench(port, &[&common[..], &["-T", "1"]].concat())?;
    let before = proxy.cpu_seconds(mode)?;
    let seconds = options.seconds.to_string();
    let output = pgbench(port, &[&common[..], &["-T", &seconds]].concat())?;
    let used = proxy.cpu_seconds(mode)? - before;
    let queries = number(&output, "number of transactions actually processed: ")?;
    if number(&output, "number of failed transactions: ")? > 0.0 || queries < 1.0 {
        return Err(format!("{} failed queries:\n{output}", proxy.name()).into());
    }
    Ok(Sample {
        micros_per_query: used * 1e6 / queries,
        queries_per_second: number(&output, "tps = ")?,
    })
}

fn pgbench(port: u16, arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new("pgbench")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", SUPERUSER])
        .args(arguments)
        .arg(DATABASE)
        .env("PGPASSWORD", PASSWORD)
        .env("PGSSLMODE", "disable")
        .output()
        .map_err(|e| format!("pgbench: {e}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("pgbench {}: {errors}", arguments.join(" ")).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number behind `label` in pgbench's output.
fn number(output: &str, label: &str) -> Result<f64, Error> {
    let rest = output.split(label).nth(1).ok_or_else(|| format!("no {label:?} in\n{output}"))?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    Ok(rest.get(..end).unwrap_or_default().parse()?)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
