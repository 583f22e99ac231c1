//! Processes of other users at the takeover socket: none of them gets a client or a socket of ours, and ours take
//! none of theirs. Only root can be another user, so these look at nothing where the tests are not run as root.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::*;
use crate::program::command;

fn is_root() -> bool {
    // SAFETY: reads a number of this process.
    unsafe { libc::geteuid() == 0 }
}

/// Whether the program succeeds, and what it says on standard error up to its end.
async fn ended(program: Command) -> (bool, String) {
    let mut program = tokio::process::Command::from(program);
    let output = program.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("an end in time").unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn another_user_takes_nothing_over() {
    if !is_root() {
        return;
    }
    let mut place = Place::new("takeover-stranger");
    let mode = std::fs::metadata(&place.socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let client = connect(place.port).await;
    // Even if the file let them in.
    let everybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&place.socket, everybody.clone()).unwrap();
    std::fs::set_permissions(&place.file, everybody).unwrap();
    let arguments = ["serve", "--takeover", "--config", place.file.to_str().unwrap()];
    let mut program = command(&arguments);
    pgshunt::local::Account::choose().unwrap().run(&mut program);
    let (success, said) = ended(program).await;
    // Whether the line was closed before or behind its first word is a matter of time.
    let words = ["broke the talk off", "reset", "Broken pipe"];
    assert!(!success && words.iter().any(|w| said.contains(w)), "{said}");
    // It goes on, and its own successor is let in.
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1);
    let mut old = place.take_over();
    assert!(old.end().await.success());
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1);
}

#[tokio::test]
async fn nothing_is_taken_over_from_another_user() {
    if !is_root() {
        return;
    }
    let mut place = Place::new("takeover-impostor");
    place.serve.signal(libc::SIGTERM);
    assert!(place.serve.end().await.success());
    // Somebody else listens where the successor looks.
    let account = pgshunt::local::Account::choose().unwrap();
    let base = account.base(false).unwrap();
    let socket = base.join(format!("impostor-{}", std::process::id()));
    let text = std::fs::read_to_string(&place.file).unwrap();
    let text = text.replace(&place.socket.display().to_string(), &socket.display().to_string());
    std::fs::write(&place.file, text).unwrap();
    let _ = std::fs::remove_file(&socket);
    let mut listening = Command::new("perl");
    let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; \
        bind(S, sockaddr_un($ARGV[0])) or die; listen(S, 5) or die; $| = 1; print \"listens\\n\"; \
        while (accept(C, S)) { sysread(C, my $all, 9999); print 'heard ', length($all), \"\\n\"; close(C) }";
    account.run(listening.args(["-e", script]).arg(&socket));
    let mut impostor = Program::spawn(listening);
    impostor.says("listens");
    let arguments = ["serve", "--takeover", "--config", place.file.to_str().unwrap()];
    let (success, said) = ended(command(&arguments)).await;
    assert!(!success && said.contains("runs as another user"), "{said}");
    assert_eq!(impostor.says("heard"), "heard 0");
    let _ = impostor.child.kill();
    let _ = impostor.child.wait();
    let _ = std::fs::remove_file(&socket);
}
