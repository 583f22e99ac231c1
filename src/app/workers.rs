//! The worker threads: one current-thread runtime each.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::client::Cancels;
use crate::client::shared::Shared;
use crate::client::worker::Worker;
use crate::gate;
use crate::net::listen::Listener;
use crate::pool::OpenRequest;
use crate::router::{Functions, Planner};

/// The sending ends towards the workers, by worker.
pub struct Outbox {
    pub openers: Vec<mpsc::UnboundedSender<OpenRequest>>,
    pub gates: Vec<mpsc::UnboundedSender<gate::Command>>,
}

/// A worker's receiving ends.
pub struct Inbox {
    opens: mpsc::UnboundedReceiver<OpenRequest>,
    gate: mpsc::UnboundedReceiver<gate::Command>,
}

pub fn channels(count: usize) -> (Outbox, Vec<Inbox>) {
    let mut out = Outbox { openers: Vec::new(), gates: Vec::new() };
    let mut inboxes = Vec::new();
    for _ in 0..count {
        let (opener, opens) = mpsc::unbounded_channel();
        let (commands, gate) = mpsc::unbounded_channel();
        out.openers.push(opener);
        out.gates.push(commands);
        inboxes.push(Inbox { opens, gate });
    }
    (out, inboxes)
}

struct Thread {
    handle: std::thread::JoinHandle<()>,
    socket: Option<oneshot::Sender<Listener>>,
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
            let (socket, given) = oneshot::channel();
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
                            let planner = Planner::new(functions);
                            let run = run(Worker::new(index, shared, planner), inbox, given);
                            local.block_on(&runtime, run);
                        }
                        Err(error) => tracing::error!(index, %error, "no runtime for a worker"),
                    }
                })?;
            threads.push(Thread { handle, socket: Some(socket) });
        }
        Ok(Self { threads })
    }

    /// Lets every worker accept clients.
    pub fn listen(&mut self, sockets: Vec<Listener>) {
        for (thread, socket) in self.threads.iter_mut().zip(sockets) {
            if let Some(give) = thread.socket.take() {
                // A worker that is gone has logged why.
                let _ = give.send(socket);
            }
        }
    }

    /// Waits until the workers have drained, which `Shared::draining` told them to. When their time
    /// is up, whatever their clients still wait for is cancelled.
    pub async fn drain(self, timeout: Duration, cancels: &Cancels) {
        let deadline = Instant::now() + timeout;
        let mut joined = tokio::task::spawn_blocking(move || {
            for t in self.threads {
                if t.handle.join().is_err() {
                    tracing::error!("a worker panicked");
                }
            }
        });
        if tokio::time::timeout_at(deadline.into(), &mut joined).await.is_ok() {
            return;
        }
        let ended = async { tokio::join!(cancels.deliver_all(), joined) };
        let last = deadline + LAST + Duration::from_secs(1);
        if tokio::time::timeout_at(last.into(), ended).await.is_err() {
            tracing::warn!("some clients did not end in time");
        }
    }
}

async fn run(worker: Rc<Worker>, mut inbox: Inbox, socket: oneshot::Receiver<Listener>) {
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
    let mut draining = worker.shared.draining.clone();
    let stop = async {
        // The sender lives as long as the server; its end is a stop too.
        let _ = draining.wait_for(|d| *d).await;
    };
    let mut stop = std::pin::pin!(stop);
    let Ok(socket) = socket.await else { return };
    let listener = match socket.register() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(worker = worker.index, %error, "cannot listen");
            return;
        }
    };
    let live = Rc::new(Notify::new());
    let count = Rc::new(Cell::new(0usize));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((socket, addr)) => {
                let (live, count) = (live.clone(), count.clone());
                let counted = Counted::new(count, live);
                let client = crate::client::serve(worker.clone(), socket, addr);
                tokio::task::spawn_local(async move {
                    client.await;
                    drop(counted);
                });
            }
            Err(error) => {
                // Out of file descriptors: others must close theirs first.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    worker.drain.notify_waiters();
    let ended = async || {
        while count.get() > 0 {
            live.notified().await;
        }
    };
    let patience = worker.shared.config.load().server.shutdown_timeout;
    if tokio::time::timeout(patience, ended()).await.is_ok() {
        return;
    }
    // Time is up: transactions are ended, as their statements are cancelled (Workers::drain).
    worker.ending.set(true);
    worker.drain.notify_waiters();
    // What has not ended by then is closed with the runtime.
    let _ = tokio::time::timeout(LAST, ended()).await;
}

/// A client of this worker, counted for as long as this lives, however its task ends.
struct Counted {
    count: Rc<Cell<usize>>,
    live: Rc<Notify>,
}

impl Counted {
    fn new(count: Rc<Cell<usize>>, live: Rc<Notify>) -> Self {
        count.set(count.get() + 1);
        Self { count, live }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.live.notify_one();
    }
}
