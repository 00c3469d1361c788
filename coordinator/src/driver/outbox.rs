//! Orders to agents.

use std::collections::HashMap;

use tokio::sync::mpsc;

use crate::core::{Order, SessionId};

/// Orders that may wait for an agent that reads slowly, before its stream counts as reset.
const WAITING: usize = 1024;

/// What goes down an agent's stream.
#[derive(Debug)]
pub enum Outbound {
    /// An order.
    Order(Order),
    /// The last message: the stream ends.
    Refused {
        /// Why.
        reason: String,
        /// Whether the same registration may succeed later.
        retry: bool,
    },
}

/// The way to one agent.
#[derive(Debug)]
pub struct Outbox(mpsc::Sender<Outbound>);

/// The ways to all agents.
#[derive(Debug, Default)]
pub(super) struct Outboxes(HashMap<SessionId, Outbox>);

impl Outbox {
    /// A way, and its end.
    pub fn new() -> (Self, mpsc::Receiver<Outbound>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }
}

impl Outboxes {
    pub(super) fn open(&mut self, session: SessionId, outbox: Outbox) {
        // Ends of streams are noticed here, too, so that the map holds no dead ones for long.
        self.0.retain(|_, outbox| !outbox.0.is_closed());
        self.0.insert(session, outbox);
    }

    /// Sends an order. An agent that does not read loses its stream: it comes back and is told again what matters.
    pub(super) fn send(&mut self, session: SessionId, order: Order) {
        let full = self
            .0
            .get(&session)
            .is_some_and(|outbox| outbox.0.try_send(Outbound::Order(order)).is_err());
        if full {
            tracing::warn!(
                session = session.0,
                "agent does not read its orders: its stream is closed"
            );
            self.0.remove(&session);
        }
    }

    pub(super) fn close(&mut self, session: SessionId, reason: String, retry: bool) {
        if let Some(outbox) = self.0.remove(&session) {
            // A full or closed stream ends without the word.
            let _ = outbox.0.try_send(Outbound::Refused { reason, retry });
        }
    }
}
