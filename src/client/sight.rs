//! Reads over several nodes and commits take turns: the wait for one another.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use super::aside::cancelled;
use super::ending::End;
use super::relay::Client;
use crate::session::{Awaited, Io, unended};
use crate::sight::{Held, Unseen};
use crate::wire::backend::Report;

impl Client {
    /// Waits for whom the message that is next has to wait for.
    pub(super) async fn take_turns(&mut self, held: &Held) -> Result<(), End> {
        if self.waits_for_turn(held).await? {
            self.refuse_front(cancelled());
        }
        Ok(())
    }

    /// Gives the statement under way the look, or the leave to decide, that it awaits.
    pub(super) async fn see(&mut self) -> Result<(), End> {
        let sights = self.worker.shared.store.sights().clone();
        while let Some(awaited) = self.parts.session.awaits() {
            match awaited {
                Awaited::Decision(writers) => match sights.decides(&writers, Instant::now()) {
                    Ok(ending) => self.tells_session(|session, io| session.decides(ending, io)),
                    // As PostgreSQL does, it listens to nobody while it commits.
                    Err(held) => {
                        let since = Instant::now();
                        passes(&sights, &held).await;
                        self.parts.stats.sight.record(since.elapsed());
                    }
                },
                Awaited::Look { nodes, tries } => {
                    match sights.look(&nodes, tries, Instant::now()) {
                        Ok(look) => self.tells_session(|session, io| session.looks(look, io)),
                        Err(Unseen::Held(held)) => {
                            if self.waits_for_turn(&held).await? {
                                self.cannot_look(&cancelled());
                            }
                        }
                        Err(Unseen::Lost(node)) => {
                            let routes = self.worker.shared.store.routes().load();
                            self.cannot_look(&unended(node, &routes));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn cannot_look(&mut self, report: &Report) {
        self.tells_session(|session, io| session.cannot_look(report, io));
    }

    fn tells_session(&mut self, tell: impl FnOnce(&mut crate::session::Session, &mut Io<'_>)) {
        if let Some(conn) = &mut self.server {
            let mut io = Io { client: self.out.buf(), server: conn.output.buf() };
            tell(&mut self.parts.session, &mut io);
        }
    }

    /// True: the wait was cancelled.
    async fn waits_for_turn(&mut self, held: &Held) -> Result<bool, End> {
        let (sights, since) = (self.worker.shared.store.sights().clone(), Instant::now());
        let mut latest = pin!(tokio::time::sleep_until(held.until.into()));
        let aside = self.wait_aside(|cx| match sights.poll_changed(held, cx.waker()) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => latest.as_mut().poll(cx),
        });
        let aside = aside.await;
        self.parts.stats.sight.record(since.elapsed());
        Ok(aside?.unless_cancelled().is_none())
    }
}

async fn passes(sights: &crate::sight::Sights, held: &Held) {
    let changed = std::future::poll_fn(|cx| sights.poll_changed(held, cx.waker()));
    // What is waited for may come later than it can be waited for.
    let _ = tokio::time::timeout_at(held.until.into(), changed).await;
}
