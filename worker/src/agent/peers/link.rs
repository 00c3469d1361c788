//! One link while it stands.

use std::time::Duration;

use diptych_common::ids::{Rank, WorkerId};
use diptych_proto::v1;
use diptych_proto::v1::peer_message::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;

use super::{Links, PeerEvent, lock};

/// Between two beats of one side.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// A link that says nothing for so long is lost.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// How long the other end may take to close after this one.
const CLOSING: Duration = Duration::from_secs(1);
/// Messages that may wait for a slow network; beats beyond them are left out.
pub(super) const WAITING: usize = 16;

/// How a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// The attempt is over on one of its ends.
    Over,
    /// It broke.
    Lost(String),
}

/// Says and hears what there is, until the link ends; tells the agent when it stands and when it is lost.
pub(super) async fn stand(
    links: &Links,
    worker: &WorkerId,
    mut incoming: Streaming<v1::PeerMessage>,
    outgoing: mpsc::Sender<v1::PeerMessage>,
) -> End {
    *lock(&links.standing).entry(worker.clone()).or_insert(0) += 1;
    links
        .say(PeerEvent::Up(links.attempt.clone(), worker.clone()))
        .await;
    let end = talk(links, worker, &mut incoming, &outgoing).await;
    drop(outgoing);
    let alone = {
        let mut standing = lock(&links.standing);
        let count = standing.entry(worker.clone()).or_insert(1);
        *count -= 1;
        *count == 0
    };
    match &end {
        End::Over => drop(tokio::time::timeout(CLOSING, closed(&mut incoming)).await),
        End::Lost(reason) if alone && !links.told.borrow().over => {
            let lost = PeerEvent::Lost(links.attempt.clone(), worker.clone(), reason.clone());
            links.say(lost).await;
        }
        End::Lost(_) => {}
    }
    end
}

async fn talk(
    links: &Links,
    worker: &WorkerId,
    incoming: &mut Streaming<v1::PeerMessage>,
    outgoing: &mpsc::Sender<v1::PeerMessage>,
) -> End {
    let mut told = links.told.subscribe();
    told.mark_changed();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut said = false;
    loop {
        tokio::select! {
            biased;
            message = incoming.message() => match message {
                Ok(Some(message)) => {
                    heard = Instant::now();
                    if let Some(Message::Gone(gone)) = message.message {
                        links.say(PeerEvent::Gone {
                            attempt: links.attempt.clone(),
                            worker: worker.clone(),
                            rank: Rank::new(gone.rank),
                            reason: gone.reason,
                        }).await;
                    }
                }
                Ok(None) => return End::Over,
                Err(status) => return End::Lost(format!("the stream broke: {}", status.message())),
            },
            () = tokio::time::sleep_until(heard + SILENCE) => {
                return End::Lost(format!("silent for {} s", SILENCE.as_secs()));
            }
            _ = told.changed() => {
                let now = told.borrow_and_update().clone();
                if let Some(gone) = now.gone.filter(|_| !said) {
                    said = true;
                    // A full channel is a link that is silent soon.
                    drop(outgoing.try_send(message(Message::Gone(gone))));
                }
                if now.over {
                    return End::Over;
                }
            }
            _ = beat.tick() => drop(outgoing.try_send(message(Message::Beat(v1::PeerBeat {})))),
        }
    }
}

async fn closed(incoming: &mut Streaming<v1::PeerMessage>) {
    while let Ok(Some(_)) = incoming.message().await {}
}

pub(super) fn message(message: Message) -> v1::PeerMessage {
    v1::PeerMessage {
        message: Some(message),
    }
}

impl Links {
    /// An agent that has ended asks for nothing.
    async fn say(&self, event: PeerEvent) {
        drop(self.events.send(event).await);
    }
}
