//! Re-reads a checkpoint: a phase advances only after a worker has seen every size and hash hold. What is damaged and
//! what this worker cannot read are two things: only the first says something of the checkpoint.

use std::sync::Arc;

use diptych_common::checkpoint::{CheckpointKey, CheckpointReader, CheckpointRef, LoadError};
use diptych_common::store::{self, Opened, Stores};
use diptych_proto::{convert, v1};
use futures::StreamExt as _;

/// Why a checkpoint is not vouched for.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// It is not what was written.
    Damaged(String),
    /// The store does not answer, or not to this worker.
    Unread(String),
}

/// Follows an order and reports what was found.
pub async fn recheck(stores: Arc<dyn Stores>, order: v1::VerifyOrder) -> v1::VerifyReport {
    let (problem, unread) = match problem_of(&*stores, &order).await {
        Ok(()) => (String::new(), false),
        Err(Problem::Damaged(problem)) => (problem, false),
        Err(Problem::Unread(reason)) => (reason, true),
    };
    v1::VerifyReport {
        job: order.job,
        checkpoint: order.checkpoint,
        problem,
        unread,
    }
}

async fn problem_of(stores: &dyn Stores, order: &v1::VerifyOrder) -> Result<(), Problem> {
    let wire = convert::required("checkpoint", order.checkpoint.clone());
    let checkpoint = wire
        .and_then(CheckpointRef::try_from)
        .map_err(|error| Problem::Unread(error.to_string()))?;
    let opened = stores.open(&order.storage);
    let (objects, root) = opened.map_err(|error| Problem::Unread(error.to_string()))?;
    let read = async {
        CheckpointReader::open(objects.clone(), root.clone(), &checkpoint)
            .await?
            .verify()
            .await
    };
    match read.await {
        Ok(()) => Ok(()),
        Err(error @ LoadError::Missing { .. })
            if order.storage.starts_with("file:")
                && !knows_job(&(objects, root), &order.job).await =>
        {
            Err(Problem::Unread(format!(
                "{error}, and nothing of job {} is under {}: is it mounted on this worker?",
                order.job, order.storage
            )))
        }
        Err(error) if error.is_damage() => Err(Problem::Damaged(error.to_string())),
        Err(error) => Err(Problem::Unread(error.to_string())),
    }
}

/// Whether anything of a job is in a store: a folder that is not mounted looks like an empty one.
async fn knows_job((objects, root): &Opened, job: &str) -> bool {
    let Ok(job) = job.parse() else { return false };
    let folder = store::join(root, &CheckpointKey::job_prefix(&job));
    matches!(objects.list(Some(&folder)).next().await, Some(Ok(_)))
}

#[cfg(test)]
mod tests {
    use diptych_common::store::ByUrl;

    use super::*;

    async fn recheck_order(order: v1::VerifyOrder) -> v1::VerifyReport {
        recheck(Arc::new(ByUrl), order).await
    }

    const FOLDER: &str = "digits-0a1b2c/00-pretrain/step-000000000004-a000001";

    fn order(storage: String) -> v1::VerifyOrder {
        v1::VerifyOrder {
            job: "digits-0a1b2c".into(),
            storage,
            checkpoint: Some(v1::CheckpointRef {
                phase: "pretrain".into(),
                manifest: format!("{FOLDER}/manifest.json"),
                digest: "00".repeat(32),
                step: 4,
            }),
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = format!("file://{}", dir.path().display());
        let empty = recheck_order(order(storage.clone())).await;
        assert!(
            empty.unread && empty.problem.contains("is it mounted"),
            "{empty:?}"
        );
        let strange = recheck_order(order("ftp://nowhere".into())).await;
        assert!(
            strange.unread && strange.problem.contains("ftp"),
            "{strange:?}"
        );

        let folder = dir.path().join(FOLDER);
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("shard-00000.safetensors"), b"x").expect("written");
        let missing = recheck_order(order(storage.clone())).await;
        assert!(
            !missing.unread && missing.problem.contains("manifest.json is missing"),
            "{missing:?}"
        );
        std::fs::write(folder.join("manifest.json"), b"{}").expect("written");
        let changed = recheck_order(order(storage)).await;
        assert!(
            !changed.unread && changed.problem.contains("BLAKE3"),
            "{changed:?}"
        );
    }
}
