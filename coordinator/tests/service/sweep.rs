//! Objects that nobody needs go, however often the coordinator is restarted meanwhile.

use std::path::Path;

use diptych_proto::v1;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::env::{Coordinator, LIMIT, spec};

fn object(folder: &Path) -> std::path::PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let object = folder.join("shard-00000.safetensors");
    std::fs::write(&object, b"x").unwrap();
    object
}

async fn gone(object: &Path) {
    let looked = async {
        while object.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, looked)
        .await
        .expect("it is deleted");
}

#[tokio::test]
async fn parts_of_saves_that_were_never_committed_go_when_the_phase_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let coordinator = Coordinator::start(&dir.path().join("data")).await;
    let mut spec = spec();
    spec.storage = format!("file://{}", store.display());
    let job = coordinator.submit(spec).await;
    let phase = store.join(&job).join("00-pretrain");
    let left = object(&phase.join("step-000000000002-a000001"));
    let committed = object(&phase.join("step-000000000004-a000001"));
    let later = object(&phase.join("step-000000000002-a000009"));
    let foreign = object(&phase.join("mine"));
    let events = object(&phase.join("tensorboard"));
    coordinator.obedient("w1").await;
    coordinator.obedient("w2").await;
    let last = coordinator.watch(&job).await.pop().unwrap();
    assert_eq!(last.state(), v1::JobState::Succeeded);
    gone(&left).await;
    assert!(committed.exists() && later.exists() && foreign.exists() && events.exists());
    coordinator.end().await;
}

#[tokio::test]
async fn a_deletion_is_remembered_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (data, store) = (dir.path().join("data"), dir.path().join("store"));
    Coordinator::start(&data).await.end().await;
    let body = serde_json::json!({
        "is": "checkpoint",
        "storage": format!("file://{}", store.display()),
        "folder": "old-000000/00-pretrain/step-000000000002-a000001",
    });
    let options = SqliteConnectOptions::new().filename(data.join("coordinator.db"));
    let mut database = options.connect().await.unwrap();
    sqlx::query("INSERT INTO deletions (body) VALUES (?)")
        .bind(body.to_string())
        .execute(&mut database)
        .await
        .unwrap();
    let old = object(&store.join("old-000000/00-pretrain/step-000000000002-a000001"));
    let coordinator = Coordinator::start(&data).await;
    gone(&old).await;
    let forgotten = async {
        loop {
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM deletions")
                .fetch_one(&mut database)
                .await
                .unwrap();
            if left == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, forgotten)
        .await
        .expect("it is forgotten");
    database.close().await.unwrap();
    coordinator.end().await;
}
