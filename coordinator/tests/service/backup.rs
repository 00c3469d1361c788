//! A copy of the database while everything goes on, and the way back.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diptych_coordinator::store::{self, StoreError};
use diptych_proto::v1;
use diptych_proto::v1::admin_service_client::AdminServiceClient;
use diptych_proto::v1::backup_chunk::Part;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::env::{Coordinator, spec};

/// A coordinator that is asked for a copy while jobs come in.
async fn backup(coordinator: &Coordinator) -> Vec<u8> {
    let mut client = AdminServiceClient::new(coordinator.channel.clone());
    let asked = client.backup(v1::BackupRequest {}).await;
    let mut parts = asked.unwrap().into_inner();
    let mut data = Vec::new();
    loop {
        match parts.message().await.unwrap().and_then(|chunk| chunk.part) {
            Some(Part::Data(part)) => data.extend(part),
            Some(Part::End(end)) => {
                assert_eq!(end.size, data.len() as u64);
                assert_eq!(end.digest, blake3::hash(&data).to_hex().to_string());
                return data;
            }
            None => panic!("the stream says what it was"),
        }
    }
}

async fn made(dir: &Path) -> (PathBuf, String) {
    let coordinator = Coordinator::start(&dir.join("data")).await;
    coordinator.obedient("w1").await;
    coordinator.obedient("w2").await;
    let job = coordinator.submit(spec()).await;
    coordinator.watch(&job).await;
    let waiting = coordinator.submit(big()).await;
    let data = backup(&coordinator).await;
    let later = coordinator.submit(spec()).await;
    assert_ne!(later, job);
    let left: Vec<_> = std::fs::read_dir(dir.join("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(left.len() <= 1, "{left:?}");
    coordinator.end().await;
    let file = dir.join("backup");
    std::fs::write(&file, data).unwrap();
    (file, waiting)
}

async fn jobs_of(coordinator: &Coordinator) -> usize {
    let asked = v1::ListJobsRequest::default();
    let listed = coordinator.jobs().list(asked).await;
    listed.unwrap().into_inner().jobs.len()
}

/// A job that waits for more workers than there are.
fn big() -> v1::JobSpec {
    let mut spec = spec();
    let ranks = v1::ranks_spec::Ranks::Fixed(3);
    if let Some(resources) = &mut spec.resources {
        resources.ranks = Some(v1::RanksSpec { ranks: Some(ranks) });
    }
    spec
}

#[tokio::test]
async fn what_was_backed_up_goes_on_with_attempts_that_were_never_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let (file, waiting) = made(dir.path()).await;
    let to = dir.path().join("restored");
    let restored = store::restore(&file, &to, false).await.unwrap();
    assert_eq!(
        (restored.jobs, restored.active, restored.former),
        (2, 1, None)
    );
    let coordinator = Coordinator::start(&to).await;
    assert_eq!(
        jobs_of(&coordinator).await,
        2,
        "the job that came after the copy is not in it"
    );
    for name in ["w1", "w2", "w3"] {
        coordinator.obedient(name).await;
    }
    let seen = coordinator.watch(&waiting).await;
    let last = seen.last().unwrap();
    assert_eq!(last.state(), v1::JobState::Succeeded);
    assert_eq!(last.phases[0].attempt, 10_001);
    let mut jobs = coordinator.jobs();
    let events = jobs.events(v1::EventsRequest {
        job: waiting,
        follow: false,
    });
    let mut events = events.await.unwrap().into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        kinds.push(event.kind);
    }
    assert!(kinds.contains(&"restored".to_owned()), "{kinds:?}");
    coordinator.end().await;
}

#[tokio::test]
async fn a_restore_that_may_not_be_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = made(dir.path()).await;
    let data = dir.path().join("data");
    let database = data.join("coordinator.db");
    // The coordinator that runs below writes to its database as it likes; a restore puts another file in its place.
    let which = || std::fs::metadata(&database).unwrap().ino();
    let before = which();

    let refused = store::restore(&file, &data, false).await.unwrap_err();
    assert!(matches!(refused, StoreError::Occupied { .. }), "{refused}");

    let coordinator = Coordinator::start(&data).await;
    let refused = store::restore(&file, &data, true).await.unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    coordinator.end().await;

    let text = dir.path().join("text");
    std::fs::write(&text, "no database").unwrap();
    let half = dir.path().join("half");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, []).unwrap();
    for bad in [&text, &half, &other] {
        let refused = store::restore(bad, &data, true).await.unwrap_err();
        assert!(matches!(refused, StoreError::NoBackup { .. }), "{refused}");
        assert!(
            refused.to_string().contains(bad.to_str().unwrap()),
            "{refused}"
        );
    }
    let newer = dir.path().join("newer");
    std::fs::copy(&file, &newer).unwrap();
    migrate_beyond_this_version(&newer).await;
    let refused = store::restore(&newer, &data, true).await.unwrap_err();
    assert!(matches!(refused, StoreError::Schema(_)), "{refused}");
    let refused = store::restore(&dir.path().join("none"), &data, true).await;
    assert!(matches!(refused.unwrap_err(), StoreError::File { .. }));
    assert_eq!(which(), before);
    let names: Vec<_> = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part") || name.contains("before-restore"))
        .collect();
    assert_eq!(names, [""; 0]);
    let coordinator = Coordinator::start(&data).await;
    assert_eq!(
        jobs_of(&coordinator).await,
        3,
        "that which came after the copy is still there"
    );
    coordinator.end().await;
}

async fn migrate_beyond_this_version(database: &Path) {
    let options = SqliteConnectOptions::new().filename(database);
    let mut connection = options.connect().await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations
         SELECT 9999, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations LIMIT 1",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_put_aside_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = made(dir.path()).await;
    let data = dir.path().join("data");
    let restored = store::restore(&file, &data, true).await.unwrap();
    let former = restored.former.unwrap();
    let again = dir.path().join("again");
    let undone = store::restore(&former, &again, false).await.unwrap();
    assert_eq!(undone.jobs, 3, "the job that came after the copy, too");
}
