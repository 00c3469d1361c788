use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::roster::choose;
use super::{CudaView, Found, GpuWish, Lent, NoSuchGpus, Roster, Share, faults, survey, verdict};
use crate::config::AgentConfig;
use crate::device::nvml::{Fault, Nvml, NvmlError};

/// How long the doctor may take: libtorch's CUDA half is some gigabytes, and disks may be slow.
const DOCTOR: Duration = Duration::from_secs(120);

/// What an agent with these settings lends of this machine; `program` is its own.
///
/// # Errors
/// [`NoSuchGpus`].
pub async fn lend(config: &AgentConfig, program: &Path) -> Result<Roster, NoSuchGpus> {
    let found = match config.gpus {
        GpuWish::None => Ok(Vec::new()),
        GpuWish::Auto | GpuWish::These(_) => found(),
    };
    let gpus = choose(&config.gpus, &CudaView::of_this_process(), found)?;
    let problem = verdict(program, &gpus, DOCTOR).await;
    let lent = Lent {
        gpus,
        problem,
        slots: config.devices,
        threads: config.threads,
    };
    let roster = Roster::new(&lent, &Share::of_this_machine());
    for device in roster
        .devices
        .iter()
        .filter(|device| !device.problem.is_empty())
    {
        let (index, name, problem) = (device.index, &device.name, &device.problem);
        tracing::error!(index, name, problem, "no rank can run on this GPU");
    }
    Ok(roster)
}

/// What goes wrong from now on with the GPUs that were lent; nothing where there are none.
pub fn watch(roster: &Roster) -> mpsc::Receiver<Fault> {
    let (_, nothing) = mpsc::channel(1);
    if roster.devices.iter().all(|device| device.kind != "cuda") {
        return nothing;
    }
    match Nvml::open() {
        Ok(nvml) => faults(nvml),
        Err(error) => {
            tracing::warn!(%error, "faults of GPUs are not told");
            nothing
        }
    }
}

fn found() -> Result<Vec<Found>, NvmlError> {
    survey(&Nvml::open()?)
}
