//! What benches of all kinds say about the device that they ran on.

use diptych_common::plan::Sheet;
use diptych_common::spec::Precision;
use tch::Device;

use crate::device::{nvml, stream};

const MIB: f64 = 1024.0 * 1024.0;

/// Waits until the device has done what it was given, so that a clock read afterwards tells its time.
pub(super) fn finish(device: Device) -> anyhow::Result<()> {
    if let Device::Cuda(index) = device {
        stream::synchronize(index)?;
    }
    Ok(())
}

/// From now on the peak is counted anew; what a GPU holds, in MiB.
pub(super) fn start_peak_mib(device: Device) -> anyhow::Result<Option<f64>> {
    let Device::Cuda(index) = device else {
        return Ok(None);
    };
    stream::reset_peak(index)?;
    Ok(Some(stream::memory(index)?.held as f64 / MIB))
}

/// The most that a GPU held since, in MiB.
pub(super) fn peak_mib(device: Device) -> anyhow::Result<Option<f64>> {
    let Device::Cuda(index) = device else {
        return Ok(None);
    };
    Ok(Some(stream::memory(index)?.peak as f64 / MIB))
}

/// `cpu`, or the vendor's name of the GPU.
pub(super) fn name(device: Device) -> String {
    let Device::Cuda(index) = device else {
        return "cpu".to_owned();
    };
    let gpu = nvml::Nvml::open().and_then(|nvml| nvml.gpu(index as u32));
    gpu.map_or_else(|_| format!("cuda:{index}"), |gpu| gpu.name)
}

/// Share of the device's peak that so many operations a second are, where its data sheet is known.
pub(super) fn share_of_peak(device: Device, precision: Precision, flops_per_s: f64) -> Option<f64> {
    let name = name(device).to_lowercase();
    let words: Vec<&str> = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .collect();
    // A CPU's peak is a matter of its cores.
    let sheet = words
        .iter()
        .filter(|word| **word != "cpu")
        .find_map(|word| Sheet::named(word))?;
    Some(flops_per_s / (sheet.tflops(precision) * 1e12))
}
