//! The running proxy: its threads, and how it starts and stops.
//!
//! N worker threads serve clients, each with a runtime of its own and a listening socket of its
//! own on the shared port. The runtime that [`Server::start`] is called on is the control runtime:
//! catalog, DDL, moves and metrics live there and never on a worker.

mod asking;
mod console;
mod memory;
mod owner;
mod reload;
mod serve;
mod successor;
mod systemd;
mod takeover;
mod workers;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin::{self, ConsoleContext, Login, Process, Stop};
use crate::backend::control::Connector;
use crate::catalog::owner::{ClaimError, Owner};
use crate::catalog::{CatalogError, Store, ddl, transactions};
use crate::client::deadlocks;
use crate::client::shared::{Console, Shared, Visitor};
use crate::config::{self, Config, Live};
use crate::gate::Gates;
use crate::moves::Mover;
use crate::net::listen::{self, Listener, SocketFile};
use crate::net::tls::{ClientTls, ServerTls, TlsError};
use crate::pool::Pools;
use crate::telemetry::{self, Registry};

use reload::Reloader;
pub use reload::{SetFilter, Source};
pub use serve::{Signals, serve};
use takeover::{Inheritance, Predecessor, TakeoverError};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Owner(#[from] ClaimError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot listen on {addr}: {error}")]
    Listen { addr: SocketAddr, error: std::io::Error },
    #[error("cannot listen at {0}")]
    Unix(std::io::Error),
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("the sockets that systemd has opened: {0}")]
    Systemd(std::io::Error),
    #[error("could not resume moves: {0}")]
    Moves(String),
    #[error("worker threads: {0}")]
    Threads(std::io::Error),
}

/// How often the catalog is asked for changes made by others.
const CATALOG_POLL: Duration = Duration::from_secs(2);

/// How long the home node may take to tell the catalog's epoch.
const PATIENCE_WITH_HOME: Duration = Duration::from_secs(5);
/// How long start-up waits for moves that an earlier process left.
const RESUME_DEADLINE: Duration = Duration::from_secs(30);
/// How often DDL that a crash left undecided is looked for.
const RECOVERY: Duration = Duration::from_secs(60);

/// A running proxy.
pub struct Server {
    /// Where clients connect; the port is known even if the configuration said 0.
    pub addr: SocketAddr,
    pub metrics_addr: Option<SocketAddr>,
    pub shared: Arc<Shared>,
    pub mover: Arc<Mover>,
    pub gates: Gates,
    reloader: Arc<Reloader>,
    stopped: watch::Receiver<Option<Stop>>,
    context: ConsoleContext,
    /// What clients connect to, and where metrics are: for a successor.
    sockets: Vec<Listener>,
    /// The name of the Unix socket among them; gone as soon as nobody accepts there.
    unix: Option<SocketFile>,
    metrics_socket: Option<TcpListener>,
    drain: watch::Sender<bool>,
    workers: workers::Workers,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// Reads the catalog (or creates it), settles what an earlier process left unfinished, and
    /// begins to serve.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::begin(config, None, None).await
    }

    /// Like [`Server::start`]; the configuration can be read again from where it came. `takeover`:
    /// the sockets and the clients are those of the process that runs already.
    pub async fn start_from(
        config: Config,
        source: Option<Source>,
        takeover: bool,
    ) -> Result<Self, StartError> {
        let before = match (takeover, &config.server.takeover_socket) {
            (false, _) => None,
            (true, Some(path)) => Some(Predecessor::meet(path).await?),
            (true, None) => return Err(TakeoverError::NoSocket.into()),
        };
        Self::begin(config, source, before).await
    }

    async fn begin(
        config: Config,
        source: Option<Source>,
        before: Option<(Predecessor, Inheritance)>,
    ) -> Result<Self, StartError> {
        let live: Live = Arc::new(ArcSwap::from_pointee(config.clone()));
        let store =
            Arc::new(Store::open(Arc::new(Connector::new(&config)), &config.cluster.nodes).await?);
        let owner = match &before {
            None => {
                let home = store.routes().load().home().clone();
                let owner = Owner::claim(store.connector().clone(), home).await?;
                // Another process may have changed it until now.
                store.reload().await?;
                Some(owner)
            }
            Some(_) => {
                store.steward().wait_for_predecessor();
                None
            }
        };
        let functions = store.functions().await?;
        let asking = store.asking().await?;
        let tls = ServerTls::load(&config.tls)?.map(Arc::new);
        let count = match config.server.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let registry = Arc::new(Registry::new(count));
        let (plan, inbox) = workers::channels(count);
        let tls_to_nodes = ClientTls::load(&config.tls)?;
        let pools = Pools::new(config.pool.clone(), tls_to_nodes, plan.openers, registry.clone());
        pools.asked_before(asking.clone());
        let figures = Arc::downgrade(&pools);
        registry.offer_pools(move || figures.upgrade().map(|p| p.figures()).unwrap_or_default());
        let gates = Gates::new(plan.gates);
        let mover = Mover::new(store.clone(), gates.clone(), config.moves.clone());
        let (drain, draining) = watch::channel(false);
        let listen = config.server.listen;
        console::offer_moves(&registry, &mover);
        let context = ConsoleContext::new(
            registry.clone(),
            store.clone(),
            gates.clone(),
            mover.clone(),
            live.clone(),
            pools.clone(),
            tokio::runtime::Handle::current(),
        );
        let process = context.process.clone();
        let shared = Arc::new(Shared::new(
            live,
            store.clone(),
            mover.clone(),
            pools,
            registry.clone(),
            tls,
            tokio::runtime::Handle::current(),
            serve_console(context.clone()),
            draining,
        ));
        let (stop, stopped) = watch::channel(None);
        let reloader = Arc::new(Reloader::new(source, store.clone(), shared.clone(), stop));
        let of_console: Weak<dyn Process> = Arc::downgrade(&(reloader.clone() as Arc<dyn Process>));
        process.get_or_init(|| of_console);
        let Sockets { clients: sockets, unix, metrics: metrics_socket, before } =
            Sockets::of(before, &config.server, count)?;
        let addr = sockets.iter().find_map(Listener::tcp_addr).unwrap_or(listen);

        // The workers' gates must be there before a move can close them, and the moves of an
        // earlier process must be known before a statement is routed: threads first, then moves,
        // then the listening sockets.
        let mut workers = workers::Workers::spawn(shared.clone(), functions, inbox)
            .map_err(StartError::Threads)?;
        let mut tasks = vec![
            tokio::spawn(follow_catalog(store.clone(), registry.clone())),
            tokio::spawn(end_periods(shared.clone())),
            tokio::spawn(deadlocks::watch(shared.deadlocks.clone(), store.clone())),
            tokio::spawn(asking::keep(store.clone(), shared.clone(), asking)),
        ];
        if let Some(owner) = owner {
            mover
                .resume_all(RESUME_DEADLINE)
                .await
                .map_err(|e| StartError::Moves(e.to_string()))?;
            tasks.push(tokio::spawn(ddl::keep_recovering(store.clone(), RECOVERY)));
            let clients = transactions::keep_recovering(store.clone(), RECOVERY);
            tasks.push(tokio::spawn(clients));
            tasks.push(tokio::spawn(owner::keep(owner, gates.clone(), store.clone())));
        }
        let mut metrics_addr = None;
        if let Some(socket) = &metrics_socket {
            let listener = socket.try_clone().and_then(tokio::net::TcpListener::from_std);
            let listener = listener.map_err(StartError::Threads)?;
            metrics_addr = listener.local_addr().ok();
            let (registry, routes) = (registry.clone(), store.routes().clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = telemetry::serve(listener, registry, routes).await {
                    tracing::error!(%error, "metrics are no longer served");
                }
            }));
        }
        if let Some((before, next_pid)) = &before {
            // Nobody is accepted meanwhile: who connects waits at the socket. From its first client
            // on this process gives no pid twice and passes cancels on.
            shared.cancels.begin_at(*next_pid);
            before.serving()?;
            shared.cancels.set_elsewhere(Some(before.canceller()?));
        }
        workers.listen(&sockets).map_err(StartError::Threads)?;
        registry.set_ready(true);
        tracing::info!(%addr, workers = count, "serving");
        let server = Self {
            addr,
            metrics_addr,
            shared,
            mover,
            gates,
            reloader,
            stopped,
            context,
            sockets,
            unix,
            metrics_socket,
            drain,
            workers,
            tasks,
        };
        Ok(match before {
            Some((before, _)) => server.succeed(before, plan.adopters),
            None => server,
        })
    }

    /// Reads the configuration file again and logs what came of it.
    fn reload(&self) {
        if let Err(why) = self.reloader.reload() {
            tracing::error!("reload: {why}; nothing has been changed");
        }
    }

    /// Until the console was told to SHUTDOWN, and all that is to be waited for before is over.
    pub async fn told_to_stop(&self) {
        let mut stopped = self.stopped.clone();
        loop {
            // The sender lives as long as this.
            let how = stopped.wait_for(Option::is_some).await.ok().and_then(|how| *how);
            match how {
                Some(Stop::Clients) => {
                    self.shared.turn_away_new();
                    tokio::select! {
                        () = self.shared.last_client_left() => return,
                        // A second one that waits for less.
                        _ = stopped.changed() => {}
                    }
                }
                Some(Stop::Immediately) => {
                    self.shared.config.rcu(|config| {
                        let mut config = Config::clone(config);
                        config.server.shutdown_timeout = Duration::ZERO;
                        config
                    });
                    return;
                }
                Some(Stop::Transactions) | None => return,
            }
        }
    }

    /// Stops accepting, lets open transactions end (for `server.shutdown_timeout` at the most),
    /// then closes everything.
    pub async fn shutdown(self) {
        let mover = self.mover.clone();
        self.drain_for_good().await;
        mover.release().await;
    }

    async fn drain_for_good(self) {
        self.shared.registry.set_ready(false);
        // With the last handle on them the sockets close, and nobody waits at them in vain.
        drop((self.unix, self.sockets, self.metrics_socket));
        // Receivers that are gone need not be told.
        let _ = self.drain.send(true);
        let Shared { cancels, pumps, .. } = &*self.shared;
        self.workers.drain(self.shared.patience(), cancels, pumps).await;
        self.shared.pools.close();
        for t in self.tasks {
            t.abort();
        }
    }
}

/// Where clients and Prometheus connect: a predecessor's sockets, systemd's, or new ones.
struct Sockets {
    clients: Vec<Listener>,
    unix: Option<SocketFile>,
    metrics: Option<TcpListener>,
    before: Option<(Predecessor, i32)>,
}

impl Sockets {
    fn of(
        before: Option<(Predecessor, Inheritance)>,
        server: &config::Server,
        count: usize,
    ) -> Result<Self, StartError> {
        let (mut clients, mut unix, metrics, before) = match before {
            Some((p, Inheritance { clients, metrics, unix, next_pid })) => {
                (clients, unix, metrics, Some((p, next_pid)))
            }
            None => {
                let given = systemd::sockets().map_err(StartError::Systemd)?;
                (given.clients, None, given.metrics, None)
            }
        };
        let listen = server.listen;
        let failed = |addr| move |error| StartError::Listen { addr, error };
        if clients.iter().all(Listener::is_unix) {
            clients.extend(workers::bind(listen, count).map_err(failed(listen))?);
        }
        if let Some(directory) = &server.unix_socket_dir
            && !clients.iter().any(Listener::is_unix)
        {
            let port = clients.iter().find_map(Listener::tcp_addr).unwrap_or(listen).port();
            let (socket, file) = SocketFile::bind(directory, port, server.unix_socket_mode)
                .map_err(StartError::Unix)?;
            tracing::info!(path = %file.path().display(), "serving on a Unix socket");
            clients.push(socket);
            unix = Some(file);
        }
        let metrics = match (metrics, server.metrics_listen) {
            (None, Some(at)) => Some(listen::bind(at).map_err(failed(at))?),
            (metrics, _) => metrics,
        };
        Ok(Self { clients, unix, metrics, before })
    }
}

/// The console, as a client connection finds it.
fn serve_console(context: ConsoleContext) -> Console {
    Box::new(move |stream, visitor| {
        let context = context.clone();
        Box::pin(async move {
            let Visitor { entry, cancel, draining, goes_on, session } = visitor;
            let addr = entry.addr;
            let (pid, secret) = (cancel.pid(), cancel.secret().to_vec());
            let cancel = Box::new(console::Key(cancel));
            let login = Login { entry, pid, secret, cancel, draining, goes_on, session };
            match admin::serve(stream, context, login).await {
                Ok(rest) => rest,
                Err(error) => {
                    tracing::debug!(%addr, %error, "console session");
                    None
                }
            }
        })
    })
}

/// Ends the averages' periods by the clock.
async fn end_periods(shared: Arc<Shared>) {
    loop {
        let period = shared.config.load().server.stats_period;
        tokio::time::sleep(period).await;
        shared.registry.end_period();
    }
}

/// Reloads the routing table when the catalog's epoch has been raised by someone else.
async fn follow_catalog(store: Arc<Store>, registry: Arc<Registry>) {
    let mut tick = tokio::time::interval(CATALOG_POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut print = None;
    loop {
        tick.tick().await;
        let asked = async {
            // Objects that lead to distributed tables can be made on the node directly.
            let hidden = store.hidden_print().await.unwrap_or_else(|_| print.clone());
            Ok::<_, CatalogError>((store.epoch().await?, hidden))
        };
        let asked = tokio::time::timeout(PATIENCE_WITH_HOME, asked).await;
        registry.set_home_answers(matches!(asked, Ok(Ok(_))));
        let Ok(asked) = asked else {
            tracing::warn!("the home node does not answer; serving from memory");
            continue;
        };
        match asked {
            Ok((epoch, hidden)) if hidden != print || epoch > store.routes().load().epoch => {
                print = hidden;
                if let Err(error) = store.reload().await {
                    tracing::warn!(%error, "the catalog has changed and cannot be read");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the home node is away; serving from memory"),
        }
    }
}
