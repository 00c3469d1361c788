//! The maths does not know the machine: 1, 2, 3 and 4 ranks and two micro-batch sizes end in the same weights.

use anyhow::{Result, ensure};
use diptych_tests::cluster::Cluster;
use diptych_tests::specs::{self, Small};
use diptych_tests::weights;

/// design: final weights in double precision, whatever the world.
const TOLERANCE: f64 = 1e-8;

#[tokio::test]
async fn final_weights_do_not_depend_on_world_or_micro_batch() -> Result<()> {
    let cluster = Cluster::start(&[2, 2]).await?;
    specs::images(cluster.dir())?;
    let small = |ranks, groups| Small {
        ranks,
        groups,
        precision: "fp64",
        ..Small::default()
    };
    for (groups, held, worlds) in [
        (1, &[1][..], &[1, 2, 3, 4][..]),
        (3, &[3, 1][..], &[1, 2, 3, 4][..]),
    ] {
        let mut reference = None;
        for &ranks in worlds {
            for &held in held {
                let job =
                    cluster.submit(&small(ranks, (groups, held)).pretraining(cluster.dir()))?;
                cluster.succeed(&job).await?;
                let found = weights::export(&cluster, &job, "pretrain")?;
                let wanted = reference.get_or_insert_with(|| found.clone());
                let (gap, tensor) = weights::difference(wanted, &found)?;
                ensure!(
                    gap <= TOLERANCE,
                    "groups {groups}, {held} held, {ranks} ranks: {tensor} differs by {gap:e}"
                );
            }
        }
    }
    cluster.passed()
}
