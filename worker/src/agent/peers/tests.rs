//! Real sockets on loopback.

use diptych_common::ids::Attempt;
use diptych_proto::v1::peer_message::Message;
use diptych_proto::v1::peer_service_client::PeerServiceClient;
use diptych_proto::v1::peer_service_server::PeerService;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// Nothing here takes this long; reaching it is a hang.
const WATCHDOG: Duration = Duration::from_secs(20);
const SECRET: [u8; 32] = [7; 32];

fn secret(bytes: [u8; 32]) -> Secret {
    Secret::try_from(bytes.as_slice()).expect("32 bytes")
}

struct Agent {
    me: WorkerId,
    peers: Peers<Tcp>,
    events: mpsc::Receiver<PeerEvent>,
    address: String,
    serving: tokio::task::JoinHandle<()>,
}

fn worker(number: u32) -> WorkerId {
    format!("worker-{number}").parse().expect("a name")
}

fn attempt() -> AttemptKey {
    AttemptKey {
        job: "digits-0a1b2c".parse().expect("a name"),
        attempt: Attempt::new(3),
    }
}

impl Agent {
    async fn new(number: u32) -> Self {
        let me = worker(number);
        let (peers, events) = Peers::new(me.clone(), Tcp);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = tonic::transport::Server::builder().add_service(peers.service());
        let serving = tokio::spawn(async move {
            drop(
                server
                    .serve_with_incoming(TcpListenerStream::new(listener))
                    .await,
            );
        });
        Self {
            me,
            peers,
            events,
            address,
            serving,
        }
    }

    fn link(&self, others: &[&Agent]) {
        self.link_with(others, SECRET);
    }

    fn link_with(&self, others: &[&Agent], secret: [u8; 32]) {
        let others = others.iter();
        let order = LinkOrder {
            secret: secret.to_vec(),
            peers: others
                .map(|other| (other.me.clone(), other.address.clone()))
                .collect(),
        };
        self.peers.link(&attempt(), order);
    }

    async fn next(&mut self) -> PeerEvent {
        let next = tokio::time::timeout(WATCHDOG, self.events.recv()).await;
        next.expect("in time").expect("open")
    }

    async fn is_up(&mut self, other: u32) {
        assert_eq!(self.next().await, PeerEvent::Up(attempt(), worker(other)));
    }

    fn says_gone(&self, rank: u32) {
        self.peers
            .gone(&attempt(), Rank::new(rank), "it ended".into());
    }
}

fn gone(number: u32, rank: u32) -> PeerEvent {
    PeerEvent::Gone {
        attempt: attempt(),
        worker: worker(number),
        rank: Rank::new(rank),
        reason: "it ended".into(),
    }
}

async fn pair() -> (Agent, Agent) {
    let (mut low, mut high) = (Agent::new(0).await, Agent::new(1).await);
    // Its first calls find nobody who knows the attempt.
    high.link(&[&low]);
    low.link(&[&high]);
    low.is_up(1).await;
    high.is_up(0).await;
    (low, high)
}

#[tokio::test]
async fn a_rank_that_is_gone_is_known_on_the_other_end_in_both_directions() {
    let (mut low, mut high) = pair().await;
    low.says_gone(0);
    assert_eq!(high.next().await, gone(0, 0));
    high.says_gone(1);
    assert_eq!(low.next().await, gone(1, 1));
}

#[tokio::test]
async fn who_links_late_hears_what_was_said_before() {
    let (low, mut high) = (Agent::new(0).await, Agent::new(1).await);
    low.link(&[&high]);
    low.says_gone(0);
    low.peers.unlink(&attempt());
    high.link(&[&low]);
    high.is_up(0).await;
    assert_eq!(high.next().await, gone(0, 0));
}

#[tokio::test]
async fn an_end_in_order_is_no_loss() {
    for first in [0, 1] {
        let (low, high) = pair().await;
        let (leaver, other) = if first == 0 { (low, high) } else { (high, low) };
        leaver.peers.unlink(&attempt());
        // The events end with the links' last tasks.
        let Agent {
            peers,
            mut events,
            serving,
            ..
        } = other;
        serving.abort();
        drop(peers);
        let end = tokio::time::timeout(WATCHDOG, events.recv());
        assert_eq!(
            end.await.expect("in time"),
            None,
            "worker {first} left first"
        );
    }
}

#[tokio::test]
async fn a_strangers_word_does_not_count() {
    let (low, mut high) = (Agent::new(0).await, Agent::new(1).await);
    low.link(&[&high]);
    high.link_with(&[&low], [8; 32]);
    let connect = || PeerServiceClient::connect(format!("http://{}", low.address));
    let secret = secret(SECRET);
    let hello = secret.hello(&attempt(), &worker(1), &worker(0));
    let cases = [
        (
            "not the proof",
            v1::PeerHello {
                proof: vec![0; 32],
                ..hello.clone()
            },
            tonic::Code::Unauthenticated,
        ),
        (
            "no proof",
            v1::PeerHello {
                proof: Vec::new(),
                ..hello.clone()
            },
            tonic::Code::Unauthenticated,
        ),
        (
            "another name",
            v1::PeerHello {
                from: "worker-2".into(),
                ..hello.clone()
            },
            tonic::Code::Unauthenticated,
        ),
        (
            "meant for another",
            secret.hello(&attempt(), &worker(1), &worker(2)),
            tonic::Code::Unauthenticated,
        ),
        (
            "not of the gang",
            secret.hello(&attempt(), &worker(2), &worker(0)),
            tonic::Code::Unauthenticated,
        ),
        (
            "another attempt",
            v1::PeerHello {
                attempt: 4,
                ..hello.clone()
            },
            tonic::Code::NotFound,
        ),
        (
            "no job",
            v1::PeerHello {
                job: "../x".into(),
                ..hello.clone()
            },
            tonic::Code::InvalidArgument,
        ),
    ];
    for (what, hello, expected) in cases {
        let (outgoing, waiting) = mpsc::channel(1);
        outgoing
            .try_send(link::message(Message::Hello(hello)))
            .expect("room");
        let answer = connect()
            .await
            .expect("reached")
            .link(ReceiverStream::new(waiting))
            .await;
        assert_eq!(answer.expect_err(what).code(), expected, "{what}");
    }
    assert!(
        high.events.try_recv().is_err(),
        "no link with another secret"
    );
}

/// Admits everybody, and does not know the secret.
struct Liar {
    calls: mpsc::UnboundedSender<()>,
}

#[tonic::async_trait]
impl PeerService for Liar {
    type LinkStream = BoxStream<'static, Result<v1::PeerMessage, tonic::Status>>;

    async fn link(
        &self,
        _: tonic::Request<tonic::Streaming<v1::PeerMessage>>,
    ) -> Result<tonic::Response<Self::LinkStream>, tonic::Status> {
        self.calls.send(()).expect("the test listens");
        let hello = secret([9; 32]).hello(&attempt(), &worker(0), &worker(1));
        let first = stream::once(async { Ok(link::message(Message::Hello(hello))) });
        let all = first.chain(stream::pending());
        Ok(tonic::Response::new(all.boxed()))
    }
}

#[tokio::test]
async fn who_answers_without_the_secret_is_a_stranger() {
    let mut high = Agent::new(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (calls, mut called) = mpsc::unbounded_channel();
    let server =
        tonic::transport::Server::builder().add_service(PeerServiceServer::new(Liar { calls }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let order = LinkOrder {
        secret: SECRET.to_vec(),
        peers: [(worker(0), address)].into(),
    };
    high.peers.link(&attempt(), order);
    for _ in 0..3 {
        let again = tokio::time::timeout(WATCHDOG, called.recv()).await;
        again.expect("in time").expect("open");
    }
    assert!(
        high.events.try_recv().is_err(),
        "called again, never linked"
    );
}

#[tokio::test]
async fn a_broken_link_is_lost_and_comes_back() {
    let (mut low, mut high) = (Agent::new(0).await, Agent::new(1).await);
    // A relay between them, which the test can cut.
    let relay = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let through = relay.local_addr().expect("bound").to_string();
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let target = low.address.clone();
    let cutting = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = relay.accept().await {
            let mut cut = cutting.subscribe();
            let mut called = tokio::net::TcpStream::connect(&target)
                .await
                .expect("there");
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut caller, &mut called) => {}
                    _ = cut.recv() => {}
                }
            });
        }
    });
    low.link(&[&high]);
    let order = LinkOrder {
        secret: SECRET.to_vec(),
        peers: [(worker(0), through)].into(),
    };
    high.peers.link(&attempt(), order);
    low.is_up(1).await;
    high.is_up(0).await;
    cut.send(()).expect("a relay");
    for (agent, other) in [(&mut low, 1), (&mut high, 0)] {
        let lost = agent.next().await;
        assert!(
            matches!(&lost, PeerEvent::Lost(of, by, _) if *of == attempt() && *by == worker(other)),
            "{lost:?}"
        );
        agent.is_up(other).await;
    }
    low.says_gone(0);
    assert_eq!(high.next().await, gone(0, 0));
}
