//! systemd opens the sockets, and hears how it goes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::*;

/// The program as systemd starts it: sockets from descriptor 3 on, and somebody to report to.
fn under_systemd(place: &Place, sockets: &[&TcpListener], notify: &Path) -> Program {
    let fds: Vec<_> = sockets.iter().map(|s| s.as_raw_fd()).collect();
    // LISTEN_PID is the process's own id, which only it can know.
    let script = "export LISTEN_PID=$$; exec \"$0\" serve --config \"$1\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_pgshunt"), place.file.to_str().unwrap()]);
    command.env("PGSHUNT_SERVICE_PASSWORD", PASSWORD).env("NOTIFY_SOCKET", notify);
    command.env("LISTEN_FDS", fds.len().to_string()).env("LISTEN_FDNAMES", "clients:metrics");
    // SAFETY: dup2 may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for (at, &fd) in fds.iter().enumerate() {
                if libc::dup2(fd, 3 + at as i32) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Program::spawn(command)
}

#[tokio::test]
async fn systemd_opens_the_sockets_and_is_told() {
    let mut place = Place::new("systemd");
    place.serve.signal(libc::SIGTERM);
    assert!(place.serve.end().await.success());
    let path = place.file.with_extension("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |what: &str| {
        let mut buffer = [0; 512];
        let n = told.recv(&mut buffer).unwrap_or_else(|e| panic!("waiting for {what}: {e}"));
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        assert!(text.contains(what), "{text}");
        text
    };
    // High descriptors, so that they are not in the way of 3 and 4.
    let high = |socket: TcpListener| {
        // SAFETY: makes a copy of a descriptor that is open.
        let fd = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
        // SAFETY: it was made for us in the line above.
        TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let (clients, metrics) = (
        high(TcpListener::bind("127.0.0.1:0").unwrap()),
        high(TcpListener::bind("127.0.0.1:0").unwrap()),
    );
    let port = clients.local_addr().unwrap().port();
    for _ in 0..2 {
        // Nobody runs yet: the connection waits.
        let early = tokio::spawn(async move { connect(port).await });
        let mut serve = under_systemd(&place, &[&clients, &metrics], &path);
        assert_eq!(value::<i32>(&early.await.unwrap(), "SELECT 1").await, 1);
        let ready = hear("READY=1");
        assert!(ready.contains(&format!("MAINPID={}", serve.child.id())), "{ready}");
        let at = metrics.local_addr().unwrap();
        let page = tokio::task::spawn_blocking(move || {
            let mut tcp = TcpStream::connect(at).unwrap();
            tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut page = String::new();
            tcp.read_to_string(&mut page).unwrap();
            page
        });
        assert!(page.await.unwrap().contains("pgshunt_"));
        serve.signal(libc::SIGHUP);
        hear("RELOADING=1");
        hear("READY=1");
        serve.signal(libc::SIGTERM);
        hear("STOPPING=1");
        assert!(serve.end().await.success());
    }
    std::fs::remove_file(&path).unwrap();
}
