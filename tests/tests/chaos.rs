//! Four faults at random, real processes: the job ends with the weights of an undisturbed run. `make chaos` does more.

use anyhow::Result;
use diptych_tests::chaos::fault::Kind;
use diptych_tests::chaos::{self, Options};

// The store is in this process, and the harness waits for programs that use it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_faults_at_random() -> Result<()> {
    chaos::main(&Options {
        seed: 1,
        faults: 4,
        kinds: vec![
            Kind::KillTrainer,
            Kind::KillAgent,
            Kind::KillCoordinator,
            Kind::StopTrainer,
        ],
        agents: 3,
        steps_per_fault: 20,
        namespaces: false,
    })
    .await
}
