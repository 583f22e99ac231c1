//! What systemd is told, and what it gives: sd_notify(3) and sd_listen_fds(3). Without systemd
//! nothing happens.

#![expect(unsafe_code, reason = "systemd gives descriptors by number")]

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};

use sd_notify::NotifyState;

use crate::net::listen::Listener;

/// The name of the socket for metrics in a socket unit (`FileDescriptorName=`); all others are for
/// clients.
const METRICS: &str = "metrics";

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// This process serves. It may have taken over from the one that systemd knows.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
}

pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Sockets that a socket unit has opened for us.
pub struct Given {
    pub clients: Vec<Listener>,
    pub metrics: Option<TcpListener>,
}

/// Sockets that were open before this process began; none when it was started otherwise.
pub fn sockets() -> io::Result<Given> {
    let mut given = Given { clients: Vec::new(), metrics: None };
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd has opened it for this process, and it is taken once: at the start.
        let socket = Listener::given(unsafe { OwnedFd::from_raw_fd(fd) })?;
        match socket {
            Listener::Tcp(socket) if name == METRICS => given.metrics = Some(socket),
            socket => given.clients.push(socket),
        }
    }
    Ok(given)
}
