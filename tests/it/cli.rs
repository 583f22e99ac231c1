//! The program as a person starts it.

use std::process::{Command, Output};

fn pgshunt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgshunt"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_configuration_is_an_error_with_its_line() {
    let file = std::env::temp_dir().join(format!("pgshunt-cli-{}.toml", std::process::id()));
    std::fs::write(&file, "[cluster]\ndatabse = \"app\"\n").unwrap();
    let output = pgshunt(&["check", "--config", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(".toml:2: unknown key `databse`, did you mean `database`?"), "{text}");
}

#[test]
fn a_missing_configuration_is_named() {
    let output = pgshunt(&["check", "--config", "/nowhere/pgshunt.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/pgshunt.toml: No such file"), "{}", stderr(&output));
}

#[test]
fn a_command_line_without_sense_is_told_apart() {
    assert_eq!(pgshunt(&["fly"]).status.code(), Some(2));
    assert_eq!(pgshunt(&["check"]).status.code(), Some(2), "a configuration must be named");
}
