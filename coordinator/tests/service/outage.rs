//! The database cannot be written.

use diptych_coordinator::bench::simulated::registration;
use diptych_proto::v1;
use diptych_proto::v1::worker_service_client::WorkerServiceClient;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tonic::Code;

use crate::env::{Coordinator, spec};

#[tokio::test]
async fn what_cannot_be_made_durable_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(dir.path()).await;
    let before = coordinator.submit(spec()).await;

    let options = SqliteConnectOptions::new().filename(dir.path().join("coordinator.db"));
    let mut intruder = options.connect().await.unwrap();
    let held = intruder.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let request = || v1::SubmitRequest {
        spec: Some(spec()),
        request_id: "mine".to_owned(),
        dry_run: false,
    };
    let (refused, agent) = tokio::join!(
        async { coordinator.jobs().submit(request()).await.unwrap_err() },
        // What workers report is not lost, only late.
        coordinator.agent(registration("w1", "1", 2)),
    );
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("nothing was changed"),
        "{}",
        refused.message()
    );
    let jobs = || async {
        let listed = coordinator
            .jobs()
            .list(v1::ListJobsRequest::default())
            .await
            .unwrap();
        listed
            .into_inner()
            .jobs
            .into_iter()
            .map(|job| job.job)
            .collect::<Vec<_>>()
    };
    assert_eq!(jobs().await, std::slice::from_ref(&before));
    held.rollback().await.unwrap();

    let created = coordinator
        .jobs()
        .submit(request())
        .await
        .unwrap()
        .into_inner();
    assert!(created.created, "the refused request left no trace");
    assert_eq!(jobs().await, [created.job, before]);
    let mut workers = WorkerServiceClient::new(coordinator.channel.clone());
    let workers = workers
        .list(v1::ListWorkersRequest {})
        .await
        .unwrap()
        .into_inner()
        .workers;
    assert_eq!(workers.len(), 1);
    drop(agent);
    coordinator.end().await;
}
