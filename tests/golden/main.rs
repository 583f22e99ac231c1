//! Stories of a session, as scripts: what the client and the nodes say, and all that comes of it.
//!
//! A line at the margin is input: `C> Query BEGIN` (a client, by whatever name, `n` excepted),
//! `n1> Ready I` (a node, to the client that spoke last; `n1:A>` to client A), `! move 3 n1` (see
//! `World::command`), or a comment. An indented line is what followed, compared whole. After a
//! change that is meant, `GOLDEN=write cargo test --test golden` writes them anew: read the diff.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a test ends by panicking"
)]

mod cluster;
mod fence;
mod idle;
mod messages;
mod plans;
mod world;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn scripts(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    found.sort();
    found
}

/// The script with what follows from its inputs. `---` starts a new world.
fn play(script: &str, changes_over: bool) -> (String, usize, usize) {
    let mut played = String::new();
    let mut world = world::World::new(changes_over);
    let (mut held, mut free) = (0, 0);
    for line in script.lines() {
        if line.starts_with(' ') {
            continue;
        }
        let _ = writeln!(played, "{line}");
        if line.starts_with("---") {
            (held, free) = (held + world.changed.0, free + world.changed.1);
            world = world::World::new(changes_over);
        } else if !line.is_empty() && !line.starts_with('#') {
            for followed in world.step(line) {
                let _ = writeln!(played, "{followed}");
            }
        }
    }
    (played, held + world.changed.0, free + world.changed.1)
}

/// The first line in which they differ, with the lines before it.
fn difference(wanted: &str, got: &str) -> String {
    let same = wanted.lines().zip(got.lines()).take_while(|(a, b)| a == b).count();
    let before: Vec<_> = wanted.lines().take(same).collect();
    let from = before.len().saturating_sub(8);
    format!(
        "line {}:\n{}\nwanted: {}\ngot:    {}",
        same + 1,
        before[from..].join("\n"),
        wanted.lines().nth(same).unwrap_or("(nothing)"),
        got.lines().nth(same).unwrap_or("(nothing)"),
    )
}

#[test]
fn sessions_behave_as_their_scripts_tell() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/session");
    let only = std::env::var("GOLDEN_ONLY").unwrap_or_default();
    let write = std::env::var("GOLDEN").is_ok_and(|v| v == "write");
    let mut wrong = Vec::new();
    let all = scripts(&dir);
    assert!(!all.is_empty(), "no scripts in {}", dir.display());
    for path in all.iter().filter(|p| p.to_string_lossy().contains(&only)) {
        let wanted = fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let got = match std::panic::catch_unwind(|| play(&wanted, false)) {
            Ok((got, ..)) => got,
            Err(_) => {
                wrong.push(format!("{name}: the script could not be played to its end"));
                continue;
            }
        };
        if got != wanted {
            if write {
                fs::write(path, &got).unwrap();
            } else {
                wrong.push(format!("{name}, {}", difference(&wanted, &got)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
}

/// A session that goes from process to process between any two lines is none the worse for it.
#[test]
fn nothing_changes_for_a_session_when_its_process_does() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/session");
    let only = std::env::var("GOLDEN_ONLY").unwrap_or_default();
    let mut wrong = Vec::new();
    let (mut held, mut free) = (0, 0);
    for path in scripts(&dir).iter().filter(|p| p.to_string_lossy().contains(&only)) {
        let wanted = fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match std::panic::catch_unwind(|| play(&wanted, true)) {
            Ok((got, with, without)) if got == wanted => {
                held += with;
                free += without;
            }
            Ok((got, ..)) => wrong.push(format!("{name}, {}", difference(&wanted, &got))),
            Err(_) => wrong.push(format!("{name}: the script could not be played to its end")),
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
    assert!(
        !only.is_empty() || held > 50 && free > 100,
        "{held} with a connection, {free} without"
    );
}
