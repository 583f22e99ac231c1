//! pgshunt in this process, its control runtime in a thread of its own: the clients' work must not
//! delay a cutover.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::DemoError;
use crate::app;
use crate::config::Config;

/// A running pgshunt.
pub struct Proxy {
    pub addr: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Proxy {
    pub fn start(mut config: Config) -> Result<Self, DemoError> {
        // Whoever ends a demo does not wait for a transaction somebody left open in it.
        config.server.shutdown_timeout = Duration::from_secs(2);
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel::<()>();
        let (report, started) = mpsc::channel();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(report.send(Err(e.to_string()))),
            };
            runtime.block_on(async {
                match app::Server::start(config).await {
                    Ok(server) => {
                        // Nobody listens when the demo has ended already.
                        let _ = report.send(Ok(server.addr));
                        tokio::select! {
                            _ = stopped => {}
                            () = server.told_to_stop() => {}
                        }
                        server.shutdown().await;
                        drop(end);
                    }
                    Err(e) => drop(report.send(Err(e.to_string()))),
                }
            });
        })?;
        match started.recv() {
            Ok(Ok(addr)) => Ok(Self { addr, stop, ended, thread }),
            Ok(Err(message)) => Err(DemoError::Proxy(message)),
            Err(_panicked) => Err(DemoError::Proxy("its thread ended".into())),
        }
    }

    /// Until somebody has shut it down in its console.
    pub async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
