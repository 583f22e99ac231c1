//! How the scripts tell what was run: they are run with programs of these tests in place of cargo,
//! PostgreSQL and the suites' own.

#![expect(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of programs, each a shell script, that are found first or alone.
struct Programs(PathBuf);

impl Programs {
    fn new(test: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("programs-{test}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn with(self, name: &str, script: &str) -> Self {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// The system's own program, where nothing else of the system is to be found.
    fn own(self, names: &[&str]) -> Self {
        for name in names {
            let dirs = ["/usr/bin", "/bin"];
            let program = dirs.iter().map(|d| Path::new(d).join(name)).find(|p| p.exists());
            std::os::unix::fs::symlink(program.unwrap(), self.0.join(name)).unwrap();
        }
        self
    }

    /// Runs a script of the repository, or of another place.
    fn run(&self, script: impl AsRef<Path>, arguments: &[&str], path: &str) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.0.display()))
            .env_remove("PG_BIN")
            .output()
            .unwrap()
    }

    /// Runs suites of clients and drivers by a copy of their runner, which keeps what it fetches beside
    /// the copy, with nothing else to be found than these programs.
    fn run_suites(self, names: &[&str]) -> Output {
        let programs = self.with("pgshunt", LOCAL).own(&["env", "python3", "sleep"]);
        let copy = programs.0.join("tests/drivers");
        for part in ["", "suites", "node"] {
            fs::create_dir_all(copy.join(part)).unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(part);
            for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), copy.join(part).join(entry.file_name())).unwrap();
                }
            }
        }
        let binary = programs.0.join("pgshunt");
        let arguments = [&["--binary", binary.to_str().unwrap()], names].concat();
        programs.run(copy.join("run"), &arguments, "")
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn the_sum_counts_what_all_runners_said() {
    let said = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 3 filtered out\n\
                clients and drivers: 100 passed, 0 failed, 7 skipped\nand 1 failed\n";
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("said");
    fs::write(&file, said).unwrap();
    let sum = Programs::new("sum").run("scripts/sum", &[file.to_str().unwrap()], "/usr/bin:/bin");
    assert_eq!(lines(&sum), ["112 passed, 4 failed, 8 skipped"]);
}

#[test]
fn ci_ends_with_the_sum_alone_and_fails_with_any_of_its_steps() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ci = |test: &str, make: &str, cargo: &str, bare: &str| {
        // Of what it makes only the tests have a sum.
        let make = format!("[ \"$1\" != counts ] || exit 0; {make}");
        let programs = Programs::new(test).with("make", &make).with("cargo", cargo);
        for part in [".ci", "scripts"] {
            fs::create_dir(programs.0.join(part)).unwrap();
        }
        for script in [".ci/run", "scripts/sum"] {
            fs::copy(repository.join(script), programs.0.join(script)).unwrap();
        }
        let programs = programs.with(".ci/bare", bare).with(".ci/deny", "");
        programs.run(programs.0.join(".ci/run"), &[], "/usr/bin:/bin")
    };
    let passes = "echo '10 passed, 0 failed, 2 skipped'";
    let misses = "echo 'not run: a: no b'; echo '0 passed, 0 failed, 1 skipped'";
    let good = ci("ci-good", passes, "", misses);
    let last: Vec<_> = lines(&good).into_iter().rev().take(2).collect();
    assert_eq!(last, ["10 passed, 0 failed, 3 skipped", "not run: a: no b"]);
    assert!(good.status.success(), "{good:?}");
    for (test, make, cargo, bare, sum) in [
        (
            "ci-tests",
            "echo '9 passed, 1 failed, 2 skipped'; echo make: 1; exit 1",
            "",
            passes,
            "19 passed, 1 failed",
        ),
        ("ci-lints", passes, "[ $1 != clippy ]", passes, "20 passed, 1 failed"),
        ("ci-bare", passes, "", "exit 2", "10 passed, 1 failed"),
    ] {
        let output = ci(test, make, cargo, bare);
        let said = lines(&output);
        assert!(said.last().unwrap().starts_with(sum), "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("FAILED: ")), "{said:?}");
        assert!(!output.status.success(), "{output:?}");
    }
}

/// `pgshunt local` as the runner of the suites knows it: addresses, `Ready`, and then it stays.
const LOCAL: &str = "at=postgres://app:app@127.0.0.1:1/app
    printf '%s %s\\n' pgshunt $at console $at node1 $at node2 $at node3 $at
    echo Ready
    trap 'exit 0' TERM
    while :; do sleep 0.1; done";

/// What psql answers the runner, and a suite: settings, times, that one connection has served, and a
/// version of the server of which nothing is installed.
const PSQL: &str = "case \"$*\" in *server_version_num*) echo 80000 ;; *) echo 1 ;; esac";

#[test]
fn a_suite_that_cannot_be_had_fails_nothing_and_is_named_with_the_reason() {
    let output = Programs::new("suites").run_suites(&["psql", "isolation", "exporter"]);
    let said = lines(&output);
    let not_run: Vec<_> = said.iter().filter_map(|l| l.strip_prefix("not run: ")).collect();
    assert_eq!(
        not_run,
        [
            "psql: psql is not installed",
            "isolation: psql is not installed",
            "exporter: prometheus-pgbouncer-exporter is not installed",
        ]
    );
    assert_eq!(said.last().unwrap(), "0 passed, 0 failed, 3 skipped");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_suite_whose_preparation_fails_is_skipped_before_anything_of_it_is_run() {
    let output = Programs::new("prepared").with("psql", PSQL).run_suites(&["pipeline"]);
    let said = lines(&output);
    let reason = "not run: pipeline: postgresql-server-dev-8 is not installed";
    assert!(said.iter().any(|line| line == reason), "{output:?}");
    assert_eq!(said.last().unwrap(), "0 passed, 0 failed, 1 skipped");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn only_a_suite_that_ran_something_must_have_run_on_several_connections() {
    let node = |status| format!("echo '{{\"name\": \"a\", \"status\": \"{status}\"}}'");
    let suite = |test, status| {
        let programs = Programs::new(test).with("psql", PSQL).with("npm", "");
        programs.with("node", &node(status)).run_suites(&["node"])
    };
    let skipped = suite("all-skipped", "skipped");
    assert_eq!(lines(&skipped).last().unwrap(), "0 passed, 0 failed, 2 skipped");
    assert!(skipped.status.success(), "{skipped:?}");
    let ran = suite("some-run", "ok");
    assert_eq!(lines(&ran).last().unwrap(), "2 passed, 1 failed, 0 skipped");
    assert!(!ran.status.success(), "{ran:?}");
}

#[test]
fn setup_tells_of_each_need_whether_it_is_there_and_fails_when_one_is_not() {
    let there = ["sh", "sort", "sed", "dirname", "readlink"];
    let programs = Programs::new("setup").own(&there).with("cargo", "").with("psql", "");
    let output = programs.run("scripts/setup", &["--check", "--tests"], "");
    let said = lines(&output);
    let begins = |start: &str| said.iter().any(|line| line.starts_with(start));
    assert!(begins("present: psql (to talk to what the demo leaves running)"), "{said:?}");
    assert!(begins("missing: a C compiler (PostgreSQL's own parser is compiled in)"), "{said:?}");
    assert!(begins("missing: PgBouncer's exporter (it is run against pgshunt)"), "{said:?}");
    assert!(!output.status.success());
    let base = programs.run("scripts/setup", &["--check"], "");
    assert!(!lines(&base).iter().any(|line| line.contains("PgBouncer")), "the demo needs none");
}
