//! Instructions per transaction, counted by callgrind and compared with those that were accepted.
//!
//! Each case is a transaction of `benches/world` that is repeated in a process of its own under
//! valgrind; only [`counted`] is counted, not what leads to it. Instructions, unlike time, are the same
//! however busy the machine is, so that a growth of a few per cent shows in one run.
//!
//! `benches/counts/accepted` holds the accepted counts. They differ from one version of rustc to the
//! next (and a little with the processor, by which the C library chooses its memcpy), so each line
//! is of one version on one target.
//!
//! `make counts` compares; `make counts ARGS=--accept` writes what was counted into the file.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is printed")]
#![expect(clippy::expect_used, clippy::panic, reason = "a measurement that fails ends")]

#[path = "../world/mod.rs"]
mod world;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use clap::Parser;
use world::{World, answer, completed, execute, parse, prepared, simple};

type Error = Box<dyn std::error::Error>;

/// Growth in per cent that is a failure.
const TOO_MUCH: f64 = 3.0;

/// Transactions that fill caches and buffers before the counting, and those that are counted.
const BEFORE: u32 = 200;
const COUNTED: u32 = 1_000;

/// Name of a case in the file of accepted counts, and what its transaction is.
const CASES: [(&str, &str); 4] = [
    ("simple", "Query of one row"),
    ("extended", "Parse, Bind, Describe, Execute, Sync of one row"),
    ("prepared", "Bind, Describe, Execute, Sync of one row"),
    ("rows", "Query of 100 rows of 100 bytes"),
];

#[derive(Debug, Parser)]
struct Options {
    /// Compares with the file of accepted counts
    #[arg(long)]
    compare: bool,
    /// Writes what was counted into the file of accepted counts
    #[arg(long)]
    accept: bool,
    /// Carries out the transactions of one case: what is run under valgrind
    #[arg(long, hide = true)]
    case: Option<String>,
    /// What cargo gives every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.case {
        Some(case) => carry_out(case).map(|()| true),
        None if options.compare || options.accept => compare(options.accept),
        // By all that `cargo bench` does, in a build whose counts are others.
        None => {
            println!("Instructions are counted by `make counts`.");
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(case: &str) -> Result<(), Error> {
    let (mut world, messages) = match case {
        "simple" => (World::new(answer(1, 20)), simple()),
        "extended" => (World::new(completed(true)), [parse(b""), execute(b"")].concat()),
        "prepared" => prepared(),
        "rows" => (World::new(answer(100, 100)), simple()),
        _ => return Err(format!("there is no case {case}").into()),
    };
    for _ in 0..BEFORE {
        world.transaction(&messages);
    }
    counted(&mut world, &messages);
    Ok(())
}

/// Callgrind finds this function by its name: what is called from here is counted.
#[inline(never)]
fn counted(world: &mut World, messages: &[u8]) {
    for _ in 0..COUNTED {
        world.transaction(messages);
    }
}

/// Says what each case costs now and cost before. False when one has grown too much.
fn compare(accept: bool) -> Result<bool, Error> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("not run: instruction counts: valgrind is not installed (scripts/setup --tests)");
        return Ok(true);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts/accepted");
    let accepted = fs::read_to_string(&file)?;
    let compiler = compiler()?;
    let mut now = Vec::new();
    for (case, what) in CASES {
        let count = count(case)?;
        now.push((case, count));
        match accepted_count(&accepted, &compiler, case) {
            Some(before) => {
                println!("{case:<9} {count:>8} {:>+7.2} %  {what}", growth(before, count));
            }
            None => println!("{case:<9} {count:>8}     new    {what}"),
        }
    }
    if accept {
        fs::write(&file, with_counts(&accepted, &compiler, &now))?;
        println!("accepted for {compiler}; say in the commit what the instructions are spent on");
        return Ok(true);
    }
    let known = |(case, count): &(&str, u64)| {
        accepted_count(&accepted, &compiler, case).map(|before| growth(before, *count))
    };
    if now.iter().any(|of| known(of).is_none()) {
        println!(
            "not run: comparison of instruction counts: none are accepted for {compiler}; \
             make counts ARGS=--accept, on the commit before the change"
        );
    }
    let grown: Vec<_> = now.iter().filter(|of| known(of).is_some_and(|g| g > TOO_MUCH)).collect();
    for (case, _) in &grown {
        println!("FAILED: instruction counts: `{case}` has grown by more than {TOO_MUCH} %");
    }
    if !grown.is_empty() {
        println!(
            "What they are spent on, function by function, here and on the commit before:\n    \
             callgrind_annotate target/callgrind/{} | head -60\n\
             When the change is worth it: make counts ARGS=--accept, and say so in the commit.",
            grown[0].0
        );
    } else if now.iter().any(|of| known(of).is_some_and(|g| g < -TOO_MUCH)) {
        println!("Some have shrunk: make counts ARGS=--accept keeps it so.");
    }
    Ok(grown.is_empty())
}

fn growth(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

/// Instructions per transaction of a case.
fn count(case: &str) -> Result<u64, Error> {
    let own = env::current_exe()?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/callgrind");
    fs::create_dir_all(&dir)?;
    let out = dir.join(case);
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=counts::counted*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .args(["--case", case])
        .output()?;
    if !ran.status.success() {
        return Err(format!("valgrind: {}", String::from_utf8_lossy(&ran.stderr)).into());
    }
    let profile = fs::read_to_string(&out)?;
    let sum =
        profile.lines().find_map(|l| l.strip_prefix("summary:").or(l.strip_prefix("totals:")));
    let sum: u64 = sum.ok_or("callgrind has written no sum")?.trim().parse()?;
    if sum < u64::from(COUNTED) {
        return Err(format!("callgrind has not found `counted`: {sum} instructions").into());
    }
    Ok(sum / u64::from(COUNTED))
}

/// As `1.95.0 x86_64-unknown-linux-gnu`.
fn compiler() -> Result<String, Error> {
    let said =
        Command::new(env::var("RUSTC").unwrap_or_else(|_| "rustc".into())).arg("-vV").output()?;
    let said = String::from_utf8(said.stdout)?;
    let of = |name: &str| said.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    match (of("release:"), of("host:")) {
        (Some(release), Some(host)) => Ok(format!("{release} {host}")),
        _ => Err("rustc -vV says neither release nor host".into()),
    }
}

/// A line of the file is compiler, target, case and count, or a comment.
fn accepted_count(file: &str, compiler: &str, case: &str) -> Option<u64> {
    file.lines().find_map(|l| l.strip_prefix(&format!("{compiler} {case} "))?.trim().parse().ok())
}

/// The file with this compiler's counts replaced, all others kept.
fn with_counts(file: &str, compiler: &str, counts: &[(&str, u64)]) -> String {
    let mut new = String::new();
    for line in file.lines().filter(|l| !l.starts_with(&format!("{compiler} "))) {
        new += line;
        new.push('\n');
    }
    for (case, count) in counts {
        let _ = writeln!(new, "{compiler} {case} {count}");
    }
    new
}
