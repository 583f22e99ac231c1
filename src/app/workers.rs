//! The worker threads: one current-thread runtime each.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{Barrier, Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::client::shared::Shared;
use crate::client::worker::Worker;
use crate::client::{Arrival, Cancels};
use crate::gate;
use crate::net::listen::{self, Listener};
use crate::net::pump::Pumps;
use crate::pool::OpenRequest;
use crate::router::{Functions, Planner};

/// The sending ends towards the workers, by worker.
pub struct Outbox {
    pub openers: Vec<mpsc::UnboundedSender<OpenRequest>>,
    pub gates: Vec<mpsc::UnboundedSender<gate::Command>>,
    /// For clients that a predecessor has handed over.
    pub adopters: Vec<mpsc::UnboundedSender<Arrival>>,
}

/// A worker's receiving ends.
pub struct Inbox {
    opens: mpsc::UnboundedReceiver<OpenRequest>,
    gate: mpsc::UnboundedReceiver<gate::Command>,
    adoptions: mpsc::UnboundedReceiver<Arrival>,
    /// Where a worker whose clients have gone waits for the others.
    ended: Arc<Barrier>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "openings are bounded by the pools, commands by the holds, arrivals by the predecessor's clients"
)]
pub fn channels(count: usize) -> (Outbox, Vec<Inbox>) {
    let mut out = Outbox { openers: Vec::new(), gates: Vec::new(), adopters: Vec::new() };
    let mut inboxes = Vec::new();
    let ended = Arc::new(Barrier::new(count));
    for _ in 0..count {
        let (opener, opens) = mpsc::unbounded_channel();
        let (commands, gate) = mpsc::unbounded_channel();
        let (adopter, adoptions) = mpsc::unbounded_channel();
        out.openers.push(opener);
        out.gates.push(commands);
        out.adopters.push(adopter);
        inboxes.push(Inbox { opens, gate, adoptions, ended: ended.clone() });
    }
    (out, inboxes)
}

/// One listening socket per worker, all on the same port.
pub fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<Listener>> {
    let first = listen::bind(addr)?;
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listen::bind(addr)?);
    }
    Ok(sockets.into_iter().map(Listener::Tcp).collect())
}

/// Spreads sockets that were not made for this number of workers: each has one at least, and all are
/// accepted from. A Unix socket cannot be bound once more for each: all workers have it.
fn spread(sockets: &[Listener], count: usize) -> io::Result<Vec<Vec<Listener>>> {
    let (unix, tcp): (Vec<_>, Vec<_>) = sockets.iter().partition(|s| s.is_unix());
    let mut shares: Vec<Vec<Listener>> = (0..count).map(|_| Vec::new()).collect();
    for at in 0..tcp.len().max(count) {
        if let (Some(socket), Some(share)) =
            (tcp.get(at % tcp.len().max(1)), shares.get_mut(at % count.max(1)))
        {
            share.push(socket.try_clone()?);
        }
    }
    for share in &mut shares {
        for socket in &unix {
            share.push(socket.try_clone()?);
        }
    }
    Ok(shares)
}

struct Thread {
    handle: std::thread::JoinHandle<()>,
    sockets: Option<oneshot::Sender<Vec<Listener>>>,
    /// Its clients have gone, and all that was for them; it is closed if the thread panics.
    ended: oneshot::Receiver<()>,
}

pub struct Workers {
    threads: Vec<Thread>,
}

/// How often idle connections and waits are looked through.
const TICK: Duration = Duration::from_secs(1);
/// How long clients that have run out of time may take to be told so.
const LAST: Duration = Duration::from_secs(2);

impl Workers {
    pub fn spawn(
        shared: Arc<Shared>,
        functions: Functions,
        inboxes: Vec<Inbox>,
    ) -> io::Result<Self> {
        let mut threads = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let (sockets, given) = oneshot::channel();
            let (end, ended) = oneshot::channel();
            let (shared, functions) = (shared.clone(), functions.clone());
            let handle = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                // PostgreSQL's parser recurses on nested statements.
                .stack_size(16 << 20)
                .spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build();
                    match runtime {
                        Ok(runtime) => {
                            let local = LocalSet::new();
                            let pumps = shared.pumps.clone();
                            let planner = Planner::new(functions);
                            let run = run(Worker::new(index, shared, planner), inbox, given);
                            local.block_on(&runtime, run);
                            drop(local);
                            // Nobody need wait for it.
                            let _ = end.send(());
                            // They are driven by this runtime and outlive all else.
                            runtime.block_on(pumps.ended());
                        }
                        Err(error) => tracing::error!(index, %error, "no runtime for a worker"),
                    }
                })?;
            threads.push(Thread { handle, sockets: Some(sockets), ended });
        }
        Ok(Self { threads })
    }

    /// Lets every worker accept clients.
    pub fn listen(&mut self, sockets: &[Listener]) -> io::Result<()> {
        let shares = spread(sockets, self.threads.len())?;
        for (thread, share) in self.threads.iter_mut().zip(shares) {
            if let Some(give) = thread.sockets.take() {
                // A worker that is gone has logged why.
                let _ = give.send(share);
            }
        }
        Ok(())
    }

    /// Waits until the workers have drained, which `Shared::draining` told them to. When their time
    /// is up, whatever their clients still wait for is cancelled. What is left then are the `pumps`.
    pub async fn drain(self, timeout: Duration, cancels: &Cancels, pumps: &Pumps) {
        let deadline = Instant::now() + timeout;
        let mut all = std::pin::pin!(async {
            for t in self.threads {
                if t.ended.await.is_err() {
                    tracing::error!("a worker panicked");
                } else if pumps.count() == 0 {
                    // It has nothing left to do.
                    let _ = tokio::task::spawn_blocking(move || t.handle.join()).await;
                }
            }
        });
        if tokio::time::timeout_at(deadline.into(), &mut all).await.is_ok() {
            return;
        }
        let ended = async { tokio::join!(cancels.deliver_all(), all) };
        let last = deadline + LAST + Duration::from_secs(1);
        if tokio::time::timeout_at(last.into(), ended).await.is_err() {
            tracing::warn!("some clients did not end in time");
        }
    }
}

async fn run(worker: Rc<Worker>, mut inbox: Inbox, sockets: oneshot::Receiver<Vec<Listener>>) {
    tokio::task::spawn_local(worker.clone().keep_gate(inbox.gate));
    tokio::task::spawn_local(async move {
        while let Some(request) = inbox.opens.recv().await {
            tokio::task::spawn_local(request.carry_out());
        }
    });
    if worker.index == 0 {
        let pools = worker.shared.pools.clone();
        tokio::task::spawn_local(async move {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                pools.tick();
            }
        });
    }
    let live = Live::default();
    let accepting: Vec<_> = sockets
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|socket| tokio::task::spawn_local(accept(worker.clone(), socket, live.clone())))
        .collect();
    {
        let (worker, live) = (worker.clone(), live.clone());
        tokio::task::spawn_local(async move {
            while let Some(arrival) = inbox.adoptions.recv().await {
                live.spawn(crate::client::adopt(worker.clone(), arrival));
            }
        });
    }
    for listener in accepting {
        // A panic has been reported, and the other sockets are accepted from.
        let _ = listener.await;
    }
    let mut draining = worker.shared.draining.clone();
    // The sender lives as long as the server; its end is a stop too.
    let _ = draining.wait_for(|d| *d).await;
    worker.drain.notify_waiters();
    if tokio::time::timeout(worker.shared.patience(), live.ended()).await.is_err() {
        // Time is up: transactions are ended, as their statements are cancelled (Workers::drain).
        worker.ending.set(true);
        worker.drain.notify_waiters();
        // What has not ended by then is closed with the runtime.
        let _ = tokio::time::timeout(LAST, live.ended()).await;
    }
    // A server connection is driven by the runtime that has opened it, also while it is lent to a
    // client of another worker.
    inbox.ended.wait().await;
}

/// Serves whoever connects to this socket, until the process drains.
async fn accept(worker: Rc<Worker>, socket: Listener, live: Live) {
    let listener = match socket.register() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(worker = worker.index, %error, "cannot listen");
            return;
        }
    };
    let mut draining = worker.shared.draining.clone();
    let mut stop = std::pin::pin!(draining.wait_for(|d| *d));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return,
        };
        match accepted {
            Ok((socket, addr)) => live.spawn(crate::client::serve(worker.clone(), socket, addr)),
            Err(error) => {
                // Out of file descriptors: others must close theirs first.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The clients of this worker.
#[derive(Clone, Default)]
struct Live {
    count: Rc<Cell<usize>>,
    one_less: Rc<Notify>,
}

impl Live {
    fn spawn(&self, client: impl Future<Output = ()> + 'static) {
        self.count.set(self.count.get() + 1);
        let counted = Counted(self.clone());
        // An async block would hold the client's future twice.
        tokio::task::spawn_local(client.map(move |()| drop(counted)));
    }

    async fn ended(&self) {
        while self.count.get() > 0 {
            self.one_less.notified().await;
        }
    }
}

/// One of them, counted for as long as this lives, however its task ends.
struct Counted(Live);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.one_less.notify_one();
    }
}
