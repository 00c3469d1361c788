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
    match nvml.places(&answering) {
        Ok(places) => {
            let answering = found.iter_mut().filter(|found| found.gpu.is_ok());
            for (found, place) in answering.zip(places) {
                found.labels = place.labels;
            }
        }
        Err(error) => tracing::warn!(%error, "how the GPUs are connected is not known"),
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
    }
}
