//! The connections on which pgshunt listens for its clients: one for each database in which anybody
//! does, on the home node, as the service role.
//!
//! Each is kept by a task of the control runtime. A client's channel is listened to before its
//! LISTEN is answered, and what is heard goes to the mailbox of every client that listens to the
//! channel. When the connection breaks off, nobody can say what was not heard: its clients are told
//! that, by the end of their connections, as those of a server that went away are.
//!
//! A client that changes over to another process hears everything once: the successor listens, and
//! then sends a mark, a notification that both processes hear. All listeners of a database hear in
//! one order, that of the commits; so what comes before the mark is the predecessor's to deliver, and
//! what comes behind it the successor's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hashbrown::HashMap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres as pg;

use crate::backend::control::Connector;
use crate::session::Notification;
use crate::topology::{Node, NodeId};
use crate::wire::backend::Report;

/// Bytes a client may leave unread.
const MOST_UNREAD: usize = 8 << 20;
/// A listening connection that says nothing for so long is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// How long its answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Requests that are carried out together.
const BATCH: usize = 1000;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// Why a client hears nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The connection that listened has broken off.
    Connection,
    /// The client has left too much unread.
    Unread,
}

impl Lost {
    pub fn report(self) -> Report {
        match self {
            Self::Connection => {
                Report::fatal("57P01", "terminating connection due to administrator command")
                    .detail("The connection on which pgshunt listened for it broke off.")
            }
            Self::Unread => Report::fatal("53400", "too many notifications have not been read")
                .detail(format!("pgshunt keeps {MOST_UNREAD} bytes for a client.")),
        }
    }
}

/// The part of what is heard that is the client's to get here; marks are channels of their own.
#[derive(Debug, Default)]
enum Span {
    #[default]
    All,
    /// What comes behind this mark.
    Behind(String),
    /// What comes before this mark.
    Before(String),
    /// The mark has come: nothing more.
    Over,
}

#[derive(Debug, Default)]
struct Inner {
    heard: VecDeque<Notification>,
    bytes: usize,
    lost: Option<Lost>,
    span: Span,
}

/// What was heard for a client and not fetched yet.
#[derive(Debug)]
pub struct Mailbox {
    id: u64,
    inner: Mutex<Inner>,
    waker: AtomicWaker,
}

impl Mailbox {
    fn new(span: Span) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let inner = Mutex::new(Inner { span, ..Inner::default() });
        Arc::new(Self { id, inner, waker: AtomicWaker::new() })
    }

    fn put(&self, n: &Notification) {
        let mut inner = lock(&self.inner);
        match &inner.span {
            Span::All => {}
            Span::Behind(mark) => {
                if **mark == *n.channel {
                    inner.span = Span::All;
                }
                return;
            }
            Span::Before(mark) => {
                if **mark == *n.channel {
                    inner.span = Span::Over;
                    drop(inner);
                    self.waker.wake();
                    return;
                }
            }
            Span::Over => return,
        }
        inner.bytes += n.channel.len() + n.payload.len() + size_of::<Notification>();
        if inner.bytes > MOST_UNREAD {
            inner.heard.clear();
            inner.lost.get_or_insert(Lost::Unread);
        }
        if inner.lost.is_none() {
            inner.heard.push_back(n.clone());
        }
        drop(inner);
        self.waker.wake();
    }

    fn lose(&self) {
        lock(&self.inner).lost.get_or_insert(Lost::Connection);
        self.waker.wake();
    }

    /// Whether the client still hears all; `waker` is woken when that changes.
    pub fn look(&self, waker: &Waker) -> Result<(), Lost> {
        self.waker.register(waker);
        lock(&self.inner).lost.map_or(Ok(()), Err)
    }

    /// Whether all that is to be heard here has been; `waker` is woken when it has.
    pub fn poll_over(&self, waker: &Waker) -> Poll<Result<(), Lost>> {
        self.waker.register(waker);
        let inner = lock(&self.inner);
        match (inner.lost, &inner.span) {
            (Some(lost), _) => Poll::Ready(Err(lost)),
            (None, Span::Over) => Poll::Ready(Ok(())),
            (None, _) => Poll::Pending,
        }
    }

    /// What was heard so far. `waker` is woken when there is more.
    pub fn take(&self, waker: &Waker) -> Result<VecDeque<Notification>, Lost> {
        self.waker.register(waker);
        let mut inner = lock(&self.inner);
        match inner.lost {
            Some(lost) => Err(lost),
            None => {
                inner.bytes = 0;
                Ok(std::mem::take(&mut inner.heard))
            }
        }
    }
}

enum Command {
    Listen { channel: String, mailbox: Arc<Mailbox>, done: oneshot::Sender<Result<(), Report>> },
    Unlisten { channel: String, mailbox: u64 },
    Leave { mailbox: u64 },
    Mark { channel: String },
    Fence { done: oneshot::Sender<()> },
}

/// The task of each database, by node and name.
type Tasks = HashMap<(NodeId, Arc<str>), mpsc::UnboundedSender<Command>>;

/// All connections that listen.
pub struct Listeners {
    control: Handle,
    connector: Arc<Connector>,
    tasks: Mutex<Tasks>,
}

impl Listeners {
    pub fn new(control: Handle, connector: Arc<Connector>) -> Self {
        Self { control, connector, tasks: Mutex::default() }
    }

    /// A client that is going to listen in this database of the node.
    pub fn subscribe(&self, node: &Arc<Node>, database: &Arc<str>) -> Subscription {
        self.subscribe_for(node, database, Span::All)
    }

    /// A client that our predecessor still has listens to these channels. It is to hear here what
    /// comes behind the mark, which is sent as soon as they are listened to.
    pub fn resume(
        &self,
        node: &Arc<Node>,
        database: &Arc<str>,
        mut channels: Vec<String>,
        mark: String,
    ) -> Subscription {
        channels.push(mark.clone());
        let subscription = self.subscribe_for(node, database, Span::Behind(mark.clone()));
        // The predecessor sees from the mark whether it was done. The order is that of the commands.
        drop(subscription.listen(&channels));
        let _ = subscription.commands.send(Command::Mark { channel: mark });
        subscription
    }

    fn subscribe_for(&self, node: &Arc<Node>, database: &Arc<str>, span: Span) -> Subscription {
        let mut tasks = lock(&self.tasks);
        let commands = tasks.entry((node.id, database.clone())).or_insert_with(|| {
            #[expect(clippy::disallowed_methods, reason = "each client waits for its commands")]
            let (commands, received) = mpsc::unbounded_channel();
            let task = Task {
                connector: self.connector.clone(),
                node: node.clone(),
                database: database.clone(),
                listeners: HashMap::new(),
            };
            self.control.spawn(task.run(received));
            commands
        });
        Subscription { commands: commands.clone(), mailbox: Mailbox::new(span) }
    }
}

/// A client's part in a connection that listens.
pub struct Subscription {
    commands: mpsc::UnboundedSender<Command>,
    pub mailbox: Arc<Mailbox>,
}

fn gone() -> Report {
    Report::error("57P01", "pgshunt is shutting down")
}

impl Subscription {
    /// From when this returns nothing is missed that is sent to these channels.
    pub fn listen(&self, channels: &[String]) -> impl Future<Output = Result<(), Report>> + use<> {
        let waits: Vec<_> = channels
            .iter()
            .map(|channel| {
                let (done, wait) = oneshot::channel();
                let mailbox = self.mailbox.clone();
                // A task that is gone shows in the wait.
                let _ =
                    self.commands.send(Command::Listen { channel: channel.clone(), mailbox, done });
                wait
            })
            .collect();
        async move {
            for wait in waits {
                wait.await.unwrap_or_else(|_| Err(gone()))?;
            }
            Ok(())
        }
    }

    /// From when this returns, what comes behind the mark is not for the mailbox any more.
    pub fn until(&self, mark: &str) -> impl Future<Output = Result<(), Report>> + use<> {
        lock(&self.mailbox.inner).span = Span::Before(mark.to_owned());
        self.listen(&[mark.to_owned()])
    }

    pub fn unlisten(&self, channel: String) {
        let _ = self.commands.send(Command::Unlisten { channel, mailbox: self.mailbox.id });
    }

    /// When this returns all is in the mailbox that was sent before.
    pub fn fence(&self) -> impl Future<Output = ()> + use<> {
        let (done, wait) = oneshot::channel();
        let _ = self.commands.send(Command::Fence { done });
        async move {
            // Without an answer the mailbox tells why.
            let _ = wait.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Leave { mailbox: self.mailbox.id });
    }
}

struct Task {
    connector: Arc<Connector>,
    node: Arc<Node>,
    database: Arc<str>,
    /// Who listens to each channel that is listened to.
    listeners: HashMap<String, Vec<Arc<Mailbox>>>,
}

struct Connection {
    client: pg::Client,
    heard: mpsc::UnboundedReceiver<pg::Notification>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut connection: Option<Connection> = None;
        loop {
            let listens = connection.is_some();
            let heard = async {
                match &mut connection {
                    Some(c) => c.heard.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                n = heard => match n {
                    Some(n) => self.tell(&n),
                    None => {
                        connection = None;
                        self.lose_all();
                    }
                },
                first = commands.recv() => {
                    let Some(first) = first else { return };
                    let mut batch = vec![first];
                    while batch.len() < BATCH && let Ok(more) = commands.try_recv() {
                        batch.push(more);
                    }
                    self.carry_out(batch, &mut connection).await;
                }
                () = tokio::time::sleep(PING), if listens => {
                    self.carry_out(Vec::new(), &mut connection).await;
                }
            }
        }
    }

    async fn carry_out(&mut self, batch: Vec<Command>, connection: &mut Option<Connection>) {
        let mut sql = String::from("SELECT 1");
        let (mut listens, mut fences) = (Vec::new(), Vec::new());
        for command in batch {
            match command {
                Command::Listen { channel, mailbox, done } => {
                    // Before it is listened to: nothing is heard that nobody gets.
                    let all = self.listeners.entry(channel.clone()).or_default();
                    if all.is_empty() {
                        sql += &format!("; LISTEN {}", quoted(&channel));
                    }
                    all.push(mailbox);
                    listens.push(done);
                }
                Command::Unlisten { channel, mailbox } => {
                    if self.leave(&channel, mailbox) {
                        sql += &format!("; UNLISTEN {}", quoted(&channel));
                    }
                }
                Command::Leave { mailbox } => self.listeners.retain(|channel, all| {
                    all.retain(|m| m.id != mailbox);
                    if all.is_empty() {
                        sql += &format!("; UNLISTEN {}", quoted(channel));
                    }
                    !all.is_empty()
                }),
                Command::Mark { channel } => sql += &format!("; NOTIFY {}", quoted(&channel)),
                Command::Fence { done } => fences.push(done),
            }
        }
        if self.listeners.is_empty() {
            // It would keep the database from being dropped.
            *connection = None;
            return;
        }
        let carried_out = self.execute(&sql, connection).await;
        if let Err(report) = carried_out {
            *connection = None;
            for done in listens {
                let _ = done.send(Err(report.clone()));
            }
            self.lose_all();
            return;
        }
        if let Some(c) = connection {
            while let Ok(n) = c.heard.try_recv() {
                self.tell(&n);
            }
        }
        for done in listens {
            let _ = done.send(Ok(()));
        }
        for done in fences {
            let _ = done.send(());
        }
    }

    async fn execute(&self, sql: &str, connection: &mut Option<Connection>) -> Result<(), Report> {
        let cannot = |why: String| {
            Report::error("08006", "cannot listen for notifications at the moment").detail(why)
        };
        let c = match connection {
            Some(c) => c,
            None => {
                let opened = self.connector.connect_listening(&self.node, &self.database).await;
                let (client, heard) = opened.map_err(|e| cannot(e.to_string()))?;
                connection.insert(Connection { client, heard })
            }
        };
        match tokio::time::timeout(ANSWER, c.client.batch_execute(sql)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(match e.as_db_error() {
                Some(e) => Report::error(e.code().code().to_owned(), e.message()),
                None => cannot(e.to_string()),
            }),
            Err(_) => Err(cannot(format!("no answer within {ANSWER:?}"))),
        }
    }

    /// Takes a client off a channel; true when nobody is left there.
    fn leave(&mut self, channel: &str, mailbox: u64) -> bool {
        let Some(all) = self.listeners.get_mut(channel) else { return false };
        all.retain(|m| m.id != mailbox);
        let empty = all.is_empty();
        if empty {
            self.listeners.remove(channel);
        }
        empty
    }

    fn tell(&self, n: &pg::Notification) {
        let Some(all) = self.listeners.get(n.channel()) else { return };
        let n = Notification {
            channel: n.channel().into(),
            payload: n.payload().into(),
            pid: n.process_id(),
        };
        for mailbox in all {
            mailbox.put(&n);
        }
    }

    fn lose_all(&mut self) {
        for mailbox in self.listeners.drain().flat_map(|(_, all)| all) {
            mailbox.lose();
        }
    }
}

fn quoted(channel: &str) -> String {
    format!("\"{}\"", channel.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_is_bounded() {
        let mailbox = Mailbox::new(Span::All);
        let n = Notification { channel: "c".into(), payload: "x".repeat(8000).into(), pid: 1 };
        mailbox.put(&n);
        assert_eq!(mailbox.take(Waker::noop()).unwrap().len(), 1);
        assert!(mailbox.take(Waker::noop()).unwrap().is_empty());
        for _ in 0..=MOST_UNREAD / 8000 {
            mailbox.put(&n);
        }
        assert_eq!(mailbox.take(Waker::noop()).unwrap_err(), Lost::Unread);
        mailbox.lose();
        assert_eq!(mailbox.take(Waker::noop()).unwrap_err(), Lost::Unread, "the first reason");
    }

    #[test]
    fn a_mark_parts_what_is_heard() {
        let n =
            |channel: &str| Notification { channel: channel.into(), payload: "".into(), pid: 1 };
        let old = Mailbox::new(Span::Before("mark".into()));
        let new = Mailbox::new(Span::Behind("mark".into()));
        let own = |all: [&str; 2]| all.map(str::to_owned).to_vec();
        let heard = |m: &Mailbox| {
            let heard = m.take(Waker::noop()).unwrap();
            heard.iter().map(|n| n.channel.to_string()).collect::<Vec<_>>()
        };
        for channel in ["a", "another mark"] {
            old.put(&n(channel));
            new.put(&n(channel));
        }
        assert!(old.poll_over(Waker::noop()).is_pending());
        for channel in ["mark", "b", "c"] {
            old.put(&n(channel));
            new.put(&n(channel));
        }
        assert_eq!(old.poll_over(Waker::noop()), Poll::Ready(Ok(())));
        assert_eq!((heard(&old), heard(&new)), (own(["a", "another mark"]), own(["b", "c"])));
    }
}
