//! `pgshunt serve`: the process around a [`Server`], and the signals that end it.

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::takeover::{Door, TakeoverError};
use super::{Server, Source, StartError, memory, successor, systemd};
use crate::config::Config;
use crate::net::files;

/// `pgshunt serve`: runs until SIGTERM or SIGINT, or until another process has taken over.
pub fn serve(config: Config, source: Source, takeover: bool) -> Result<(), StartError> {
    let door = config.server.takeover_socket.clone();
    raise_file_limit(&config);
    memory::give_back_early();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Threads)?;
    let outcome = runtime.block_on(async {
        let told = Signals::new().map_err(StartError::Threads)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(StartError::Threads)?;
        let mut told = std::pin::pin!(told.wait());
        let server = tokio::select! {
            started = Server::start_from(config, Some(source), takeover) => started?,
            // A start may wait long for a node, and nobody is served yet.
            () = &mut told => return Ok(()),
        };
        let door = match door.map(|path| Door::open(&path).map_err(|e| (path, e))).transpose() {
            Ok(door) => door,
            Err((path, error)) if !takeover => {
                return Err(TakeoverError::Nobody { path, error }.into());
            }
            // The clients are here by now, and come first.
            Err((path, error)) => {
                tracing::error!(path = %path.display(), %error, "nobody can take over from us");
                None
            }
        };
        // Whoever was to read it may be gone.
        let _ = writeln!(std::io::stdout(), "pgshunt listens on {}", server.addr);
        systemd::ready();
        let successor = {
            // Kept while others are heard: who has knocked may not have said yet what it wants.
            let mut knock = std::pin::pin!(successor::knock(door.as_ref()));
            loop {
                tokio::select! {
                    () = &mut told => break None,
                    () = server.told_to_stop() => break None,
                    _ = hangup.recv() => {
                        systemd::reloading();
                        server.reload();
                        systemd::reloaded();
                    }
                    line = &mut knock => {
                        if server.offers_itself(&line).await {
                            break Some(line);
                        }
                        knock.set(successor::knock(door.as_ref()));
                    }
                }
            }
        };
        drop(door);
        if let Some(line) = successor {
            let leaves = async {
                // Connections under TLS are passed through for as long as they last.
                server.leave_to(line).await.ended().await;
            };
            tokio::select! {
                () = leaves => tracing::info!("all clients have left; this process ends"),
                () = &mut told => tracing::info!("told to end before the last client has"),
            }
            return Ok(());
        }
        tracing::info!("draining");
        systemd::stopping();
        server.shutdown().await;
        Ok(())
    });
    // A thread that still talks to a successor is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Opens as many files as may be, and says if that is fewer than clients may come.
fn raise_file_limit(config: &Config) {
    let files = files::limit();
    let wanted = config.limits.max_clients + config.pool.size * config.cluster.nodes.len();
    if files < wanted {
        tracing::warn!(
            files,
            wanted,
            "more clients are allowed than files may be open (ulimit -n)"
        );
    }
}

/// SIGTERM and SIGINT, caught from the moment this is made.
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Within a runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Until one of them comes.
    pub async fn wait(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
