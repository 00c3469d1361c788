use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use diptych_common::ids::{Attempt, Rank};

use super::{Identity, Listener, Secret};
use crate::collective::{CollectiveError, ConnectError, Gang, Refusal};

const LONG: Duration = Duration::from_secs(60);

fn identity(rank: u32) -> Identity {
    Identity {
        job: "admission-000000".parse().expect("a job id"),
        attempt: Attempt::new(4),
        rank: Rank::new(rank),
        world: 2,
        secret: Secret::from([9; 32]),
    }
}

fn bind() -> Listener {
    Listener::bind("127.0.0.1:0").expect("bind a loopback port")
}

type Connecting = thread::JoinHandle<Result<Gang, CollectiveError>>;

fn connect(listener: Listener, identity: Identity, peers: &[String]) -> Connecting {
    let peers = peers.to_vec();
    thread::spawn(move || listener.connect(identity, &peers, Instant::now() + LONG))
}

fn done(connecting: Connecting) -> Result<Gang, CollectiveError> {
    connecting.join().expect("no panic")
}

#[test]
fn intruders_are_refused_by_name_and_do_not_disturb_the_gang() {
    let (low, high) = (bind(), bind());
    let peers = [low.endpoint(), high.endpoint()];
    let waiting = connect(low, identity(0), &peers);

    // A caller that says nothing, one that talks rubbish, and one that hangs up.
    let silent = TcpStream::connect(&peers[0]).expect("call");
    let mut rubbish = TcpStream::connect(&peers[0]).expect("call");
    rubbish.write_all(&[0xa5; 4096]).expect("talk");
    drop(TcpStream::connect(&peers[0]).expect("call"));

    let other_job = "admission-ffffff".parse().expect("a job id");
    let intruders = [
        (
            Identity {
                job: other_job,
                ..identity(1)
            },
            Refusal::Job,
        ),
        (
            Identity {
                attempt: Attempt::new(3),
                ..identity(1)
            },
            Refusal::Attempt,
        ),
        (
            Identity {
                secret: Secret::from([8; 32]),
                ..identity(1)
            },
            Refusal::Secret,
        ),
    ];
    for (intruder, expected) in intruders {
        match done(connect(bind(), intruder, &peers)) {
            Err(CollectiveError::Connect(ConnectError::Refused { reason, rank, .. })) => {
                assert_eq!((reason, rank), (expected, Rank::new(0)));
            }
            // The dialler asks for the other side's proof first, and does not go on without it.
            Err(CollectiveError::Connect(ConnectError::Unproven { .. })) => {
                assert_eq!(expected, Refusal::Secret);
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    let wide = Identity {
        world: 3,
        rank: Rank::new(2),
        ..identity(0)
    };
    let three = [peers[0].clone(), peers[0].clone(), peers[1].clone()];
    let refused = done(connect(bind(), wide, &three)).expect_err("another world");
    assert!(refused.to_string().contains("number of ranks"), "{refused}");

    let joined = done(connect(high, identity(1), &peers)).expect("the real peer gets in");
    let waited = done(waiting).expect("the gang stands");
    let other = thread::spawn(move || joined.statistics.barrier());
    assert_eq!(waited.statistics.barrier(), Ok(()));
    assert_eq!(other.join().expect("no panic"), Ok(()));
    drop(silent);
}

#[test]
fn whoever_answers_without_the_secret_gets_no_proof() {
    let imposter = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let endpoint = imposter.local_addr().expect("bound").to_string();
    let answering = thread::spawn(move || {
        let (mut caller, _) = imposter.accept().expect("a call");
        caller.read_exact(&mut [0; 100]).expect("a greeting");
        // "Go on", and a proof made up.
        caller.write_all(&[0; 65]).expect("answer");
        let mut rest = Vec::new();
        // What is left of the greeting may come, or a reset; a proof (32 bytes more) must not.
        let _ = caller.read_to_end(&mut rest);
        rest.len()
    });
    let listener = bind();
    let peers = [endpoint, listener.endpoint()];
    let error = done(connect(listener, identity(1), &peers)).expect_err("no proof was given");
    assert!(
        matches!(
            error,
            CollectiveError::Connect(ConnectError::Unproven { .. })
        ),
        "{error}"
    );
    assert!(answering.join().expect("no panic") < 32);
}

#[test]
fn abort_ends_connecting_at_once() {
    for rank in [0, 1] {
        let listener = bind();
        let handle = listener.abort_handle();
        // A peer that accepts calls in its backlog and never answers.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let mute = (mute.local_addr().expect("bound").to_string(), mute);
        let mut peers = [mute.0.clone(), mute.0.clone()];
        peers[rank as usize] = listener.endpoint();
        let connecting = connect(listener, identity(rank), &peers);
        handle.abort();
        assert_eq!(
            done(connecting).expect_err("aborted"),
            CollectiveError::Aborted
        );
    }
}

#[test]
fn the_deadline_names_who_is_missing() {
    let listener = bind();
    let peers = [listener.endpoint(), "127.0.0.1:1".to_owned()];
    let soon = Instant::now() + Duration::from_millis(50);
    let error = listener
        .connect(identity(0), &peers, soon)
        .expect_err("nobody calls");
    assert_eq!(
        error,
        ConnectError::Deadline {
            missing: vec![Rank::new(1)]
        }
        .into()
    );
}

#[test]
fn impossible_gangs_and_endpoints_are_refused() {
    let error = done(connect(
        bind(),
        identity(2),
        &[String::new(), String::new()],
    ));
    assert!(
        matches!(
            error,
            Err(CollectiveError::Connect(ConnectError::Shape { .. }))
        ),
        "{error:?}"
    );
    let error = done(connect(
        bind(),
        identity(1),
        &["no port".to_owned(), String::new()],
    ));
    assert!(
        matches!(
            error,
            Err(CollectiveError::Connect(ConnectError::Endpoint { .. }))
        ),
        "{error:?}"
    );
    assert!(matches!(
        Listener::bind("nowhere"),
        Err(CollectiveError::Connect(ConnectError::Bind { .. }))
    ));
}
