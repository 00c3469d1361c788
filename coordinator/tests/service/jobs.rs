//! Submit to succeeded, streams, refusals.

use diptych_proto::v1;
use tonic::Code;

use crate::env::{Coordinator, spec};

#[tokio::test]
async fn a_job_runs_through_its_phases() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let job = coordinator.submit(spec()).await;
    let waiting = coordinator
        .jobs()
        .explain(v1::JobRequest { job: job.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(waiting.reasons[0].code, "not_enough_devices");
    coordinator.obedient("w1").await;
    coordinator.obedient("w2").await;

    let seen = coordinator.watch(&job).await;
    let last = seen.last().unwrap();
    assert_eq!(last.state(), v1::JobState::Succeeded);
    let phases: Vec<_> = last
        .phases
        .iter()
        .map(|phase| (phase.name.as_str(), phase.state(), phase.step))
        .collect();
    assert_eq!(
        phases,
        [
            ("pretrain", v1::PhaseState::Done, 4),
            ("linear", v1::PhaseState::Done, 4)
        ]
    );
    assert_eq!(last.phases[0].results[0].name, "eval_top1");
    assert_eq!(
        last.spec,
        Some(spec()),
        "the spec comes back as it was sent"
    );

    let request = v1::EventsRequest {
        job: job.clone(),
        follow: true,
    };
    let mut events = coordinator
        .jobs()
        .events(request)
        .await
        .unwrap()
        .into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        kinds.push(event.kind);
    }
    for kind in [
        "submitted",
        "placed",
        "begun",
        "checkpoint_committed",
        "checkpoint_verified",
        "phase_done",
        "job_succeeded",
    ] {
        assert!(
            kinds.iter().any(|seen| seen == kind),
            "no {kind} in {kinds:?}"
        );
    }

    let checkpoints = coordinator
        .checkpoints()
        .list(v1::ListCheckpointsRequest { job: job.clone() })
        .await
        .unwrap();
    let checkpoints = checkpoints.into_inner().checkpoints;
    assert_eq!(checkpoints.len(), 2);
    assert!(
        checkpoints
            .iter()
            .all(|c| c.r#final && c.state() == v1::CheckpointState::Verified && c.bytes == 200)
    );
    let newest = v1::CheckpointRequest {
        job: job.clone(),
        phase: String::new(),
        step: None,
    };
    let checked = coordinator
        .checkpoints()
        .verify(newest.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(checked.checkpoint.unwrap().phase, "linear");
    let pinned = v1::PinRequest {
        checkpoint: Some(newest),
        pinned: true,
    };
    assert!(
        coordinator
            .checkpoints()
            .pin(pinned)
            .await
            .unwrap()
            .into_inner()
            .pinned
    );

    let mut points = coordinator
        .jobs()
        .metrics(v1::MetricsRequest {
            job: job.clone(),
            phase: "pretrain".to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    let mut names = Vec::new();
    while let Some(point) = points.message().await.unwrap() {
        names.push((point.name, point.step, point.phase));
    }
    let point = |name: &str| (name.to_owned(), 4, "pretrain".to_owned());
    assert_eq!(names, [point("eval_top1"), point("loss")]);

    let deleted = coordinator
        .jobs()
        .delete(v1::DeleteRequest {
            job: job.clone(),
            objects: false,
        })
        .await;
    deleted.unwrap();
    assert_eq!(
        coordinator
            .jobs()
            .get(v1::JobRequest { job })
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    coordinator.end().await;
}

#[tokio::test]
async fn a_repeated_submit_gives_one_job() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let submit = |spec, dry_run| v1::SubmitRequest {
        spec: Some(spec),
        request_id: "mine".to_owned(),
        dry_run,
    };
    let dry = coordinator
        .jobs()
        .submit(submit(spec(), true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((dry.job.as_str(), dry.created), ("", false));
    let first = coordinator
        .jobs()
        .submit(submit(spec(), false))
        .await
        .unwrap()
        .into_inner();
    let second = coordinator
        .jobs()
        .submit(submit(spec(), false))
        .await
        .unwrap()
        .into_inner();
    assert!(first.created && !second.created && first.job == second.job);
    assert!(
        first.job.starts_with("tiny-") && first.job.len() == "tiny-".len() + 6,
        "{}",
        first.job
    );
    let other = v1::JobSpec {
        seed: Some(9),
        ..spec()
    };
    let refused = coordinator
        .jobs()
        .submit(submit(other, false))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("seed"), "{}", refused.message());
    let jobs = coordinator
        .jobs()
        .list(v1::ListJobsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .jobs;
    assert_eq!(jobs.len(), 1);
    coordinator.end().await;
}

#[tokio::test]
async fn every_error_of_a_spec_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let mut bad = spec();
    bad.storage = "nowhere".to_owned();
    bad.phases[0].batch = 0;
    bad.phases[1].from = Some("missing".to_owned());
    let request = v1::SubmitRequest {
        spec: Some(bad),
        request_id: String::new(),
        dry_run: false,
    };
    let refused = coordinator.jobs().submit(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let paths: Vec<_> = diptych_proto::status::field_errors(&refused)
        .into_iter()
        .map(|error| error.path)
        .collect();
    for path in ["storage", "phases[0].batch", "phases[1].from"] {
        assert!(
            paths.iter().any(|found| found == path),
            "no {path} in {paths:?}"
        );
    }
    coordinator.end().await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let request = || v1::JobRequest {
        job: "none-000000".to_owned(),
    };
    let codes = [
        coordinator.jobs().get(request()).await.unwrap_err().code(),
        coordinator
            .jobs()
            .watch(request())
            .await
            .err()
            .unwrap()
            .code(),
        coordinator
            .jobs()
            .explain(request())
            .await
            .unwrap_err()
            .code(),
        coordinator
            .jobs()
            .retry(request())
            .await
            .unwrap_err()
            .code(),
    ];
    assert_eq!(codes, [Code::NotFound; 4]);
    let malformed = coordinator
        .jobs()
        .get(v1::JobRequest {
            job: "../x".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    coordinator.end().await;
}

#[tokio::test]
async fn a_cancelled_job_says_who_and_ends_its_watchers() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let job = coordinator.submit(spec()).await;
    let cancel = v1::CancelRequest {
        job: job.clone(),
        reason: "enough".to_owned(),
    };
    let (seen, cancelled) = tokio::join!(coordinator.watch(&job), async {
        coordinator.jobs().cancel(cancel).await
    });
    assert_eq!(
        cancelled.unwrap().into_inner().state(),
        v1::JobState::Cancelled
    );
    assert_eq!(seen.last().unwrap().reason, "enough");
    coordinator.end().await;
}

#[tokio::test]
async fn a_stream_that_has_not_said_all_ends_with_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let job = coordinator.submit(spec()).await;
    let request = v1::EventsRequest { job, follow: true };
    let mut events = coordinator
        .jobs()
        .events(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().kind, "submitted");
    coordinator.stop();
    let ended = events.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    coordinator.end().await;
}

#[tokio::test]
async fn objects_that_cannot_be_deleted_keep_their_job() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let coordinator = Coordinator::start(&dir.path().join("data")).await;
    let mut spec = spec();
    spec.storage = format!("file://{}", store.display());
    let job = coordinator.submit(spec).await;
    let reason = String::new();
    let cancel = v1::CancelRequest {
        job: job.clone(),
        reason,
    };
    coordinator.jobs().cancel(cancel).await.unwrap();
    let delete = || v1::DeleteRequest {
        job: job.clone(),
        objects: true,
    };
    // A file where the store's folder should be.
    std::fs::write(&store, b"x").unwrap();
    let refused = coordinator.jobs().delete(delete()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("stays"), "{}", refused.message());
    let known = v1::JobRequest { job: job.clone() };
    assert!(coordinator.jobs().get(known.clone()).await.is_ok());

    std::fs::remove_file(&store).unwrap();
    let folder = store.join(&job).join("00-pretrain");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("part"), b"x").unwrap();
    let events = folder.join("tensorboard/events.out.tfevents.0000000001.000000");
    std::fs::create_dir(folder.join("tensorboard")).unwrap();
    std::fs::write(&events, b"x").unwrap();
    let deleted = coordinator.jobs().delete(delete()).await.unwrap();
    assert_eq!(deleted.into_inner().objects, 2);
    assert!(!folder.join("part").exists() && !events.exists());
    let gone = coordinator.jobs().get(known).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    coordinator.end().await;
}

#[tokio::test]
async fn a_list_goes_on_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let mut submitted = Vec::new();
    for _ in 0..1001 {
        submitted.push(coordinator.submit(spec()).await);
    }
    let page = async |page: String| {
        let request = v1::ListJobsRequest {
            states: Vec::new(),
            page,
        };
        let mut jobs = coordinator
            .jobs()
            .max_decoding_message_size(diptych_proto::MAX_ANSWER);
        jobs.list(request).await.map(tonic::Response::into_inner)
    };
    let first = page(String::new()).await.unwrap();
    let second = page(first.next_page).await.unwrap();
    assert_eq!((first.jobs.len(), second.jobs.len()), (1000, 1));
    assert_eq!(second.jobs[0].job, submitted[0]);
    assert_eq!(second.next_page, "");
    assert_eq!(
        page("x".to_owned()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    coordinator.end().await;
}
