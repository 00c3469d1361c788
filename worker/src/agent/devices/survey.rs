use std::collections::BTreeMap;

use crate::device::nvml::{Gpu, Nvml, NvmlError};

/// A GPU of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number on this machine.
    pub index: u32,
    /// What it is, or why it does not say: one that fell off the bus does not keep the others from working.
    pub gpu: Result<Gpu, NvmlError>,
    /// What it is near to.
    pub labels: BTreeMap<&'static str, String>,
}

// === impl Found ===

impl Found {
    /// Why no rank can run on it, whatever else its machine has, with what to do.
    pub fn problem(&self) -> Option<String> {
        match &self.gpu {
            Ok(gpu) if gpu.mig => Some(format!(
                "it is in MIG mode, and MIG instances are not lent: turn that off (`nvidia-smi -i {} -mig 0`), then \
                 restart the agent, or leave it out of `--gpus`",
                self.index
            )),
            Ok(_) => None,
            Err(error) => Some(format!(
                "it does not answer ({error}): look at `nvidia-smi` and the kernel's log, and restart the machine"
            )),
        }
    }
}

/// Those on which a rank could run, as `CUDA_VISIBLE_DEVICES` takes them.
pub(super) fn usable(found: &[Found]) -> String {
    let usable = found.iter().filter(|found| found.problem().is_none());
    let uuids = usable.filter_map(|found| Some(found.gpu.as_ref().ok()?.uuid.as_str()));
    uuids.collect::<Vec<_>>().join(",")
}

/// All GPUs of this machine.
///
/// # Errors
/// [`NvmlError`] where they cannot even be counted.
pub fn survey(nvml: &Nvml) -> Result<Vec<Found>, NvmlError> {
    let mut found: Vec<Found> = (0..nvml.count()?)
        .map(|index| Found {
            index,
            gpu: nvml.gpu(index),
            labels: BTreeMap::new(),
        })
        .collect();
    let answering: Vec<Gpu> = found
        .iter()
        .filter_map(|found| found.gpu.clone().ok())
        .collect();
    let places = nvml.places(&answering);
    let answering = found.iter_mut().filter(|found| found.gpu.is_ok());
    for (found, place) in answering.zip(places) {
        found.labels = place.labels;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake;

    #[test]
    fn a_gpu_that_does_not_answer_leaves_the_others_usable() {
        let library = fake::library("nvml", &["-DLOST=1"]);
        let nvml = Nvml::open_one_of(&[&library]).expect("it starts");
        let found = survey(&nvml).expect("three devices");
        let names: Vec<_> = found
            .iter()
            .map(|found| found.gpu.as_ref().map(|gpu| gpu.uuid.as_str()))
            .map(|name| name.map_err(ToString::to_string))
            .collect();
        assert_eq!(
            names,
            [
                Ok("GPU-fake-0"),
                Err("nvmlDeviceGetHandleByIndex: GPU is lost".to_owned()),
                Ok("GPU-fake-2")
            ]
        );
        assert_eq!(found[2].labels["nvlink"], "2");
        assert!(found[1].labels.is_empty());
        assert_eq!(usable(&found), "GPU-fake-0,GPU-fake-2");
    }

    #[test]
    fn a_gpu_in_mig_mode_is_found_with_a_problem() {
        let library = fake::library("nvml", &["-DMIG=1"]);
        let nvml = Nvml::open_one_of(&[&library]).expect("it starts");
        let found = survey(&nvml).expect("three devices");
        let problem = found[1].problem().expect("it cannot be lent");
        assert!(
            problem.starts_with("it is in MIG mode") && problem.contains("nvidia-smi -i 1 -mig 0"),
            "{problem}"
        );
        assert_eq!(found[0].problem(), None);
        assert_eq!(usable(&found), "GPU-fake-0,GPU-fake-2");
    }
}
