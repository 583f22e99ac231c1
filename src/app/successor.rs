//! Both ends of a change of processes: how a [`Server`] takes over, and how it is taken over from.
//! What they say to each other is in [`super::takeover`].

use std::future::pending;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::takeover::{self, Door, Predecessor};
use super::{RECOVERY, RESUME_DEADLINE, Server, owner};
use crate::catalog::owner::Owner;
use crate::catalog::{ddl, transactions};
use crate::client::{Arrival, Arrivals};
use crate::net::passing::Line;
use crate::net::pump::Pumps;

/// Pids left for those who log in at the old process while its sockets change hands.
const PIDS: i32 = 1 << 20;
/// How long a successor waits for our predecessor to be gone: what that one hands over, it hands to us.
const LINGERS: Duration = Duration::from_secs(20);
/// Between two tries at what must succeed some time.
const AGAIN: Duration = Duration::from_millis(200);

/// The next process at the door; without a door nobody comes.
pub async fn knock(door: Option<&Door>) -> Line {
    let Some(door) = door else { return pending().await };
    loop {
        match door.knock().await {
            Ok(line) => return line,
            Err(error) => {
                tracing::warn!(%error, "the takeover socket");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

impl Server {
    /// Relieves the predecessor: its clients come here, and the catalog is ours when it is gone.
    pub(super) fn succeed(
        mut self,
        before: Predecessor,
        adopters: Vec<UnboundedSender<Arrival>>,
    ) -> Self {
        let shared = self.shared.clone();
        let (mover, gates) = (self.mover.clone(), self.gates.clone());
        let mut turns = adopters.into_iter().cycle();
        let mut arrivals = Arrivals::new(shared.clone());
        let adopt = move |parcel, sockets| {
            if let Some(arrival) = arrivals.take(parcel, sockets)
                && let Some(worker) = turns.next()
            {
                // A worker that is gone has logged why.
                let _ = worker.send(arrival);
            }
        };
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = before.relieve(adopt).await {
                tracing::warn!(%error, "the predecessor");
            }
            shared.cancels.set_elsewhere(None);
            let store = &shared.store;
            let owner = loop {
                let home = store.routes().load().home().clone();
                match Owner::claim(store.connector().clone(), home).await {
                    Ok(owner) => break owner,
                    Err(error) => tracing::warn!(%error, "the catalog cannot be claimed yet"),
                }
                tokio::time::sleep(AGAIN).await;
            };
            while let Err(error) = store.reload().await {
                tracing::warn!(%error, "the catalog cannot be read");
                tokio::time::sleep(AGAIN).await;
            }
            while let Err(error) = mover.resume_all(RESUME_DEADLINE).await {
                tracing::warn!(%error, "the moves cannot be carried on yet");
                tokio::time::sleep(AGAIN).await;
            }
            store.steward().take();
            tracing::info!("the catalog is ours");
            tokio::join!(
                ddl::keep_recovering(store.clone(), RECOVERY),
                transactions::keep_recovering(store.clone(), RECOVERY),
                owner::keep(owner, gates, store.clone()),
            );
        }));
        self
    }

    /// Hands the sockets to a successor. True: it serves. Otherwise all is as it was.
    pub(super) async fn offers_itself(&self, line: &Line) -> bool {
        if self.context.is_paused() {
            takeover::refuse(
                line,
                "something is paused or disabled and would not be then: RESUME, ENABLE first",
            );
            return false;
        }
        let steward = self.shared.store.steward();
        if tokio::time::timeout(LINGERS, steward.predecessor_gone()).await.is_err() {
            takeover::refuse(line, "the one before it has not let all its clients go yet");
            return false;
        }
        steward.give_up().await;
        self.mover.release().await;
        let next_pid = self.shared.cancels.next().wrapping_add(PIDS) & i32::MAX;
        let (metrics, unix) = (self.metrics_socket.as_ref(), self.unix.as_ref());
        match takeover::hand_sockets_over(line, &self.sockets, metrics, unix, next_pid).await {
            Ok(()) => return true,
            Err(error) => tracing::error!(%error, "the successor does not serve; we go on"),
        }
        // It may have come so far as to accept clients; it has none of ours.
        line.hang_up();
        while let Err(error) = self.mover.resume_all(RESUME_DEADLINE).await {
            tracing::warn!(%error, "the moves cannot be carried on yet");
            tokio::time::sleep(AGAIN).await;
        }
        steward.take();
        false
    }

    /// Drains into the successor. What is left then are these.
    pub(super) async fn leave_to(mut self, line: Line) -> Pumps {
        // The socket's name is the successor's.
        if let Some(file) = self.unix.take() {
            file.leave();
        }
        let shared = self.shared.clone();
        let (give, clients) = channel();
        shared.set_successor(Some(give));
        shared.pools.wind_down();
        let hears = match line.try_clone() {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::error!(%error, "cancels of our last clients will not be heard");
                None
            }
        };
        let giving =
            tokio::task::spawn_blocking(move || takeover::hand_clients_over(line, &clients));
        let (control, cancels) = (shared.control.clone(), shared.cancels.clone());
        let hearing = tokio::task::spawn_blocking(move || {
            let Some(line) = hears else { return };
            takeover::hear_cancels(&line, |pid, secret, sender| {
                let cancels = cancels.clone();
                control.spawn(async move {
                    cancels.deliver(pid, &secret, None).await;
                    drop(sender);
                });
            });
        });
        self.drain_for_good().await;
        shared.set_successor(None);
        let clients = giving.await.unwrap_or_default();
        // It ends with the line.
        let _ = hearing.await;
        let pumps = shared.pumps.clone();
        tracing::info!(clients, under_tls = pumps.count(), "handed over");
        pumps
    }
}
