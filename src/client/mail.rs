//! Notifications on their way to a client, and what must be waited for so that none is missed.

use std::task::Waker;

use super::aside::cancelled;
use super::ending::End;
use super::listeners::Lost;
use super::relay::{CLIENT_HIGH, Client};
use crate::session::Io;

impl Client {
    /// Sees to it that these channels are listened to, and tells the session.
    pub(super) async fn listen(&mut self, channels: Vec<String>) -> Result<(), End> {
        if self.hears.is_none() {
            let shared = &self.worker.shared;
            let routes = shared.store.routes().load();
            self.hears = Some(shared.listeners.subscribe(routes.home(), &self.parts.database));
        }
        let Some(hears) = &self.hears else { return Ok(()) };
        let mut done = Box::pin(hears.listen(&channels));
        let aside = self.wait_aside(|cx| done.as_mut().poll(cx)).await?;
        match aside.arrived {
            Some(Ok(())) => self.parts.session.listening(channels),
            Some(Err(report)) => self.refuse_front(report),
            None => {
                if let Some(hears) = &self.hears {
                    channels.into_iter().for_each(|c| hears.unlisten(c));
                }
                self.refuse_front(cancelled());
            }
        }
        Ok(())
    }

    /// Waits until all has been heard that was sent so far, and tells the session.
    pub(super) async fn fence(&mut self) -> Result<(), End> {
        while let Some(hears) = &self.hears {
            let mut done = Box::pin(hears.fence());
            // A cancel means a statement, and none is under way.
            if self.wait_aside(|cx| done.as_mut().poll(cx)).await?.arrived.is_some() {
                break;
            }
        }
        self.take_mail(Waker::noop()).map_err(|lost| End::from(lost.report()))?;
        let mut none = Vec::new();
        let mut io = Io { client: self.out.buf(), server: &mut none };
        self.parts.session.fenced(&mut io);
        Ok(())
    }

    /// What the session does not listen to any more need not be listened to for it.
    pub(super) fn stop_listening(&mut self) {
        let Some(hears) = &self.hears else { return };
        for channel in self.parts.session.take_surplus() {
            hears.unlisten(channel);
        }
    }

    /// Brings the session what was heard. Between transactions the client gets it at once; else
    /// before the ReadyForQuery that ends its transaction.
    pub(super) fn fetch_mail(&mut self, waker: &Waker) -> Result<(), Lost> {
        let Some(hears) = &self.hears else { return Ok(()) };
        // Who does not take his mail gets no more of it; the mailbox is bounded.
        let full = self.out.len() > CLIENT_HIGH || self.parts.session.has_much_mail();
        let looked = if full { hears.mailbox.look(waker) } else { self.take_mail(waker) };
        match looked {
            Ok(()) => {}
            // What is under way is answered first.
            Err(_) if self.parts.session.is_waiting_for_server() => return Ok(()),
            Err(lost) => return Err(lost),
        }
        if self.parts.session.is_idle() {
            let mut none = Vec::new();
            let mut io = Io { client: self.out.buf(), server: &mut none };
            self.parts.session.hand_over_mail(&mut io);
        }
        Ok(())
    }

    pub(super) fn take_mail(&mut self, waker: &Waker) -> Result<(), Lost> {
        let Some(hears) = &self.hears else { return Ok(()) };
        let heard = hears.mailbox.take(waker)?;
        self.parts.session.post(heard);
        Ok(())
    }
}
