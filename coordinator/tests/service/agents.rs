//! Sessions, refused registrations, logs.

use diptych_coordinator::bench::simulated::{rank, registration};
use diptych_proto::v1;
use diptych_proto::v1::agent_service_client::AgentServiceClient;
use diptych_proto::v1::coordinator_message::Message as Down;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event;
use diptych_proto::v1::worker_service_client::WorkerServiceClient;
use tonic::Code;

use crate::env::{Coordinator, spec, wait_for};

#[tokio::test]
async fn a_registration_that_makes_no_sense_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let good = || registration("w1", "1", 2);
    let mut twice = good();
    twice.devices[1].index = 0;
    let mut unknown = good();
    unknown.devices[0].kind = "tpu".to_owned();
    let wrong = [
        (
            v1::Register {
                protocol: 99,
                ..good()
            },
            "speaks protocol 99",
        ),
        (
            v1::Register {
                version: "9.0.0".to_owned(),
                ..good()
            },
            "Upgrade the coordinator to 9.0",
        ),
        (
            v1::Register {
                worker_id: "No Name".to_owned(),
                ..good()
            },
            "worker_id",
        ),
        (twice, "same index"),
        (unknown, "\"tpu\" is neither cpu nor cuda"),
    ];
    for (register, expected) in wrong {
        let mut agent = coordinator.agent(register).await;
        let (reason, retry) = wait_for(&mut agent, |order| match order {
            Down::Refused(refused) => Some((refused.reason.clone(), refused.retry)),
            _ => None,
        })
        .await;
        assert!(reason.contains(expected) && !retry, "{reason}");
    }
    coordinator.end().await;
}

#[tokio::test]
async fn a_dead_trainer_s_gang_is_aborted_and_the_cause_explained() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let job = coordinator.submit(spec()).await;
    let mut one = coordinator.agent(registration("w1", "1", 1)).await;
    let mut two = coordinator.agent(registration("w2", "1", 1)).await;
    for attempt in 1..=3 {
        let prepared = |order: &Down| match order {
            Down::Rank(v1::RankCommand {
                attempt,
                command: Some(Command::Prepare(_)),
                ..
            }) => Some(*attempt),
            _ => None,
        };
        assert_eq!(wait_for(&mut one, prepared).await, attempt);
        assert_eq!(wait_for(&mut two, prepared).await, attempt);
        let last_lines = vec!["thread 'main' panicked".to_owned()];
        let crashed = Event::Exited(v1::Exited {
            code: Some(101),
            signal: None,
            last_lines,
        });
        two.send(rank(&job, attempt, 1, crashed)).await.unwrap();
        let aborted = |order: &Down| match order {
            Down::Abort(abort) => Some(abort.attempt),
            _ => None,
        };
        assert_eq!(wait_for(&mut one, aborted).await, attempt);
        let killed = Event::Exited(v1::Exited {
            signal: Some(9),
            ..Default::default()
        });
        one.send(rank(&job, attempt, 0, killed)).await.unwrap();
    }
    let last = coordinator.watch(&job).await.pop().unwrap();
    assert_eq!(last.state(), v1::JobState::Failed);
    let why = coordinator
        .jobs()
        .explain(v1::JobRequest { job })
        .await
        .unwrap()
        .into_inner();
    let first = &why.reasons[0];
    assert_eq!(
        (first.code.as_str(), first.log.as_slice()),
        ("first_failure", &["thread 'main' panicked".to_owned()][..])
    );
    assert!(
        first
            .message
            .contains("attempt 1, rank 1 on w2: its trainer exited with status 101"),
        "{}",
        first.message
    );
    coordinator.end().await;
}

#[tokio::test]
async fn a_closed_stream_makes_its_worker_suspect_and_then_lost() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let mut agent = coordinator.agent(registration("w1", "1", 1)).await;
    wait_for(&mut agent, |order| {
        matches!(order, Down::Welcome(_)).then_some(())
    })
    .await;
    drop(agent);
    let mut workers = WorkerServiceClient::new(coordinator.channel.clone());
    let mut seen = Vec::new();
    while seen.last() != Some(&v1::WorkerState::Lost) {
        let worker = workers
            .list(v1::ListWorkersRequest {})
            .await
            .unwrap()
            .into_inner()
            .workers
            .remove(0);
        if seen.last() != Some(&worker.state()) {
            seen.push(worker.state());
        }
    }
    assert!(
        seen.ends_with(&[v1::WorkerState::Suspect, v1::WorkerState::Lost]),
        "{seen:?}"
    );
    coordinator.end().await;
}

#[tokio::test]
async fn logs_are_kept_by_rank_and_attempt_and_followed_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let job = coordinator.submit(spec()).await;
    let follow = v1::LogsRequest {
        job: job.clone(),
        follow: true,
        rank: Some(1),
        ..Default::default()
    };
    let mut followed = coordinator.jobs().logs(follow).await.unwrap().into_inner();
    let mut uploads = AgentServiceClient::new(coordinator.channel.clone());
    let chunk = |rank, first_line, lines: &[&str]| v1::LogChunk {
        job: job.clone(),
        phase: 0,
        attempt: 1,
        rank,
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        first_line,
    };
    let sent = [
        chunk(0, 0, &["other"]),
        chunk(1, 0, &["one", "two"]),
        chunk(1, 1, &["two", "three"]),
    ];
    let receipt = uploads
        .upload_logs(futures::stream::iter(sent))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(receipt.lines, 3);
    let mut lines = Vec::new();
    for _ in 0..3 {
        let line = followed.message().await.unwrap().unwrap();
        lines.push((line.phase, line.attempt, line.rank, line.index, line.line));
    }
    let line = |index, text: &str| ("pretrain".to_owned(), 1, 1, index, text.to_owned());
    assert_eq!(lines, [line(0, "one"), line(1, "two"), line(2, "three")]);
    coordinator
        .jobs()
        .cancel(v1::CancelRequest {
            job: job.clone(),
            reason: String::new(),
        })
        .await
        .unwrap();
    assert_eq!(
        followed.message().await.unwrap(),
        None,
        "it ends with the job"
    );

    let tail = v1::LogsRequest {
        job: job.clone(),
        tail: 1,
        ..Default::default()
    };
    let mut tail = coordinator.jobs().logs(tail).await.unwrap().into_inner();
    let mut last = Vec::new();
    while let Some(line) = tail.message().await.unwrap() {
        last.push((line.rank, line.line));
    }
    assert_eq!(last, [(0, "other".to_owned()), (1, "three".to_owned())]);

    let after = v1::LogsRequest {
        job: job.clone(),
        tail: 1,
        after: vec![v1::LogPosition {
            phase: "pretrain".to_owned(),
            attempt: 1,
            rank: 1,
            index: 1,
        }],
        ..Default::default()
    };
    let mut after = coordinator.jobs().logs(after).await.unwrap().into_inner();
    let mut rest = Vec::new();
    while let Some(line) = after.message().await.unwrap() {
        rest.push(line.line);
    }
    assert_eq!(rest, ["other", "two", "three"], "a position wins over tail");

    let strange = v1::LogChunk {
        job: "none-000000".to_owned(),
        ..chunk(0, 0, &[])
    };
    let refused = uploads
        .upload_logs(futures::stream::iter([strange]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    coordinator.end().await;
}
