//! Re-reads a checkpoint: a phase advances only after a worker has seen every size and hash hold.

use diptych_common::checkpoint::{CheckpointReader, CheckpointRef};
use diptych_common::store;
use diptych_proto::{convert, v1};

/// Follows an order and reports what was found.
pub async fn recheck(order: v1::VerifyOrder) -> v1::VerifyReport {
    let problem = problem_of(&order).await.unwrap_or_default();
    v1::VerifyReport {
        job: order.job,
        checkpoint: order.checkpoint,
        problem,
    }
}

async fn problem_of(order: &v1::VerifyOrder) -> Option<String> {
    let wire = convert::required("checkpoint", order.checkpoint.clone());
    let checkpoint = match wire.and_then(CheckpointRef::try_from) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return Some(error.to_string()),
    };
    let (objects, root) = match store::open(&order.storage) {
        Ok(opened) => opened,
        Err(error) => return Some(error.to_string()),
    };
    let read = async {
        CheckpointReader::open(objects, root, &checkpoint)
            .await?
            .verify()
            .await
    };
    read.await.err().map(|error| error.to_string())
}
