//! What benches of all kinds say about the device that they ran on.

use diptych_common::plan::Sheet;
use diptych_common::spec::Precision;
use tch::Device;

use crate::agent::devices::{CudaView, survey};
use crate::device::nvml::Nvml;
use crate::device::stream;

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
    let nvml = Nvml::open().ok();
    nvml.and_then(|nvml| name_among(&nvml, &CudaView::of_this_process(), index))
        .unwrap_or_else(|| format!("cuda:{index}"))
}

/// The name of the GPU that CUDA, told this, numbers so: NVML has numbers of its own.
fn name_among(nvml: &Nvml, view: &CudaView, index: usize) -> Option<String> {
    let found = survey(nvml).ok()?;
    Some(view.nth(index, &found)?.name.clone())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake;

    #[test]
    fn a_gpu_is_named_by_its_place_among_those_that_are_shown() {
        let library = fake::library("nvml", &["-DLOST=1"]);
        let nvml = Nvml::open_one_of(&[&library]).expect("it starts");
        let name = |visible: Option<&str>, order: Option<&str>, index| {
            let view = CudaView {
                visible: visible.map(str::to_owned),
                order: order.map(str::to_owned),
            };
            name_among(&nvml, &view, index)
        };
        let named = |number: u32| Some(format!("Fake GPU {number}"));
        let by_address = Some("PCI_BUS_ID");
        assert_eq!(name(Some("GPU-fake-2,GPU-fake-0"), None, 0), named(2));
        assert_eq!(name(Some("2"), by_address, 0), named(2));
        assert_eq!(name(None, by_address, 0), named(0));
        // CUDA does not count a GPU that fell off the bus.
        assert_eq!(name(None, by_address, 1), named(2));
        // Of GPUs of several kinds the fastest would be the first.
        assert_eq!(name(None, None, 0), None);
    }
}
