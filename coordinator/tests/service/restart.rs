//! The store outlives the process.

use std::collections::BTreeMap;

use diptych_coordinator::bench::simulated::{SimulatedAgent, Trainers, answers, registration};
use diptych_coordinator::driver::{Options, start};
use diptych_proto::v1;
use diptych_proto::v1::agent_message::Message as Up;
use diptych_proto::v1::coordinator_message::Message as Down;
use diptych_proto::v1::rank_command::Command;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio_util::sync::CancellationToken;

use crate::env::{Coordinator, spec, wait_for};

/// Obeys until an order of some kind has come; that one is left unanswered.
async fn obey_until(
    agent: &mut SimulatedAgent,
    trainers: &mut Trainers,
    last: impl Fn(&Command) -> bool,
) {
    loop {
        let order = wait_for(agent, |order| Some(order.clone())).await;
        if let Down::Rank(v1::RankCommand {
            command: Some(command),
            ..
        }) = &order
            && last(command)
        {
            return;
        }
        for answer in answers(&order, trainers) {
            agent.send(answer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_attempt_goes_on_when_its_ranks_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let job = coordinator.submit(spec()).await;
    let mut trainers: [Trainers; 2] = [BTreeMap::new(), BTreeMap::new()];
    let mut one = coordinator.agent(registration("w1", "1", 1)).await;
    let mut two = coordinator.agent(registration("w2", "1", 1)).await;
    let is_begin = |command: &Command| matches!(command, Command::Begin(_));
    let [first, second] = &mut trainers;
    tokio::join!(
        obey_until(&mut one, first, is_begin),
        obey_until(&mut two, second, is_begin)
    );
    coordinator.end().await;

    let coordinator = Coordinator::start(dir.path()).await;
    for (index, mut trainers) in trainers.into_iter().enumerate() {
        let worker = format!("w{}", index + 1);
        let rank = index as u32;
        let running = vec![v1::RunningRank {
            job: job.clone(),
            attempt: 1,
            rank,
            device: 0,
            ..v1::RunningRank::default()
        }];
        let mut agent = coordinator
            .agent(v1::Register {
                running,
                ..registration(&worker, "1", 1)
            })
            .await;
        let channel = coordinator.channel.clone();
        let begin = Down::Rank(v1::RankCommand {
            job: job.clone(),
            attempt: 1,
            rank,
            command: Some(Command::Begin(v1::Begin::default())),
        });
        tokio::spawn(async move {
            // It trained on while the coordinator was away, and now reports.
            let mut next = answers(&begin, &mut trainers);
            loop {
                for answer in next {
                    agent.send(answer).await.unwrap();
                }
                let Ok(Some(order)) = agent.next().await else {
                    break;
                };
                next = answers(&order, &mut trainers);
            }
            drop(channel);
        });
    }
    let last = coordinator.watch(&job).await.pop().unwrap();
    assert_eq!(last.state(), v1::JobState::Succeeded, "{}", last.reason);
    assert_eq!(last.phases[0].attempt, 1, "the restart cost no attempt");
    coordinator.end().await;
}

#[tokio::test]
async fn an_acknowledged_submit_is_never_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut jobs = Vec::new();
    for round in 0..3 {
        let coordinator = Coordinator::start(dir.path()).await;
        let listed = coordinator
            .jobs()
            .list(v1::ListJobsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .jobs;
        let listed: Vec<_> = listed.into_iter().rev().map(|job| job.job).collect();
        assert_eq!(listed, jobs, "round {round}");
        jobs.push(coordinator.submit(spec()).await);
        coordinator.end().await;
    }
}

#[tokio::test]
async fn a_data_directory_has_one_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let options = Options {
        data_dir: dir.path().to_owned(),
        settings: Default::default(),
        traces: None,
    };
    let refused = start(options, CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("is in use by another coordinator"),
        "{refused}"
    );
    coordinator.end().await;
}

#[tokio::test]
async fn a_restarted_coordinator_ends_what_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let running = vec![v1::RunningRank {
        job: "gone-000000".to_owned(),
        attempt: 3,
        rank: 0,
        device: 0,
        ..v1::RunningRank::default()
    }];
    let mut agent = coordinator
        .agent(v1::Register {
            running,
            ..registration("w1", "1", 1)
        })
        .await;
    let aborted = wait_for(&mut agent, |order| match order {
        Down::Rank(command) if matches!(command.command, Some(Command::Abort(_))) => {
            Some((command.job.clone(), command.attempt))
        }
        _ => None,
    });
    assert_eq!(aborted.await, ("gone-000000".to_owned(), 3));
    agent.send(Up::Heartbeat(v1::Heartbeat {})).await.unwrap();
    coordinator.end().await;
}

#[tokio::test]
async fn a_stored_spec_that_no_longer_holds_fails_its_job_only() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let (bad, strange, good) = (
        coordinator.submit(spec()).await,
        coordinator.submit(spec()).await,
        coordinator.submit(spec()).await,
    );
    coordinator.end().await;
    let options = SqliteConnectOptions::new().filename(dir.path().join("coordinator.db"));
    let mut database = options.connect().await.unwrap();
    for (job, from, to) in [
        (&bad, "\"batch\":64", "\"batch\":0"),
        (&strange, "\"storage\"", "\"unheard_of\""),
    ] {
        sqlx::query("UPDATE jobs SET spec = replace(spec, ?, ?) WHERE id = ?")
            .bind(from)
            .bind(to)
            .bind(job.as_str())
            .execute(&mut database)
            .await
            .unwrap();
    }
    database.close().await.unwrap();

    // Twice: the failure is as durable as any other.
    for _ in 0..2 {
        let coordinator = Coordinator::start(dir.path()).await;
        for (job, state, words) in [
            (&bad, v1::JobState::Failed, "batch"),
            (&strange, v1::JobState::Failed, "unheard_of"),
            (&good, v1::JobState::Queued, "needs 2 CPU slots"),
        ] {
            let request = v1::JobRequest { job: job.clone() };
            let found = coordinator.jobs().get(request).await.unwrap().into_inner();
            assert_eq!(found.state(), state);
            assert!(found.reason.contains(words), "{}", found.reason);
        }
        let retried = coordinator
            .jobs()
            .retry(v1::JobRequest { job: bad.clone() })
            .await;
        assert!(retried.unwrap_err().message().contains("submit it anew"));
        coordinator.end().await;
    }
}
