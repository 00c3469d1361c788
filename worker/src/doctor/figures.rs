use std::time::Instant;

use tch::{Device, Kind, TchError, Tensor, no_grad};

use crate::device::stream;

/// How fast a device is, by a short measurement: a hint whether it works as it should, not a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Bytes read and written a second while a large tensor is copied, in GB.
    pub copy_gb_per_s: f64,
    /// Floating-point operations a second in a product of matrices, in 10¹².
    pub matmul_tflops: f64,
    /// Element type of the matrices.
    pub matmul_kind: &'static str,
    /// Bytes a second from pinned host memory to the device, in GB.
    pub upload_gb_per_s: Option<f64>,
}

/// Sizes that take a second in all, and are large enough to fill the device.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    copied: i64,
    side: i64,
    kind: Kind,
    name: &'static str,
}

const CPU: Sizes = Sizes {
    copied: 128 << 20,
    side: 1536,
    kind: Kind::Float,
    name: "f32",
};
const CUDA: Sizes = Sizes {
    copied: 2 << 30,
    side: 8192,
    kind: Kind::BFloat16,
    name: "bf16",
};
const REPEAT: u32 = 5;

/// Measures the processor and `devices` GPUs; those that fail are left out, and the log says why.
pub(super) fn measure(devices: u32) -> Vec<Figure> {
    let cuda = (0..devices).map(|index| Device::Cuda(index as usize));
    std::iter::once(Device::Cpu)
        .chain(cuda)
        .filter_map(|device| {
            let figure = no_grad(|| of(device));
            figure
                .inspect_err(|error| eprintln!("doctor: {}: {error}", name(device)))
                .ok()
        })
        .collect()
}

fn of(device: Device) -> Result<Figure, TchError> {
    let sizes = if device.is_cuda() { CUDA } else { CPU };
    let from = Tensor::f_ones([sizes.copied], (Kind::Uint8, device))?;
    let mut to = Tensor::f_zeros([sizes.copied], (Kind::Uint8, device))?;
    let copy_s = fastest(device, || to.f_copy_(&from).map(drop))?;
    let left = Tensor::f_ones([sizes.side, sizes.side], (sizes.kind, device))?;
    let matmul_s = fastest(device, || left.f_matmul(&left).map(drop))?;
    let upload_s = match device {
        Device::Cuda(_) => {
            let host = Tensor::f_ones([sizes.copied / 8], (Kind::Uint8, Device::Cpu))?
                .f_pin_memory(device)?;
            let mut place = to.f_narrow(0, 0, sizes.copied / 8)?;
            Some(fastest(device, || place.f_copy_(&host).map(drop))?)
        }
        _ => None,
    };
    let copied = sizes.copied as f64;
    Ok(Figure {
        device: name(device),
        copy_gb_per_s: 2.0 * copied / copy_s / 1e9,
        matmul_tflops: 2.0 * (sizes.side as f64).powi(3) / matmul_s / 1e12,
        matmul_kind: sizes.name,
        upload_gb_per_s: upload_s.map(|seconds| copied / 8.0 / seconds / 1e9),
    })
}

/// Seconds of the fastest call, after one that does not count.
fn fastest(
    device: Device,
    mut call: impl FnMut() -> Result<(), TchError>,
) -> Result<f64, TchError> {
    let mut best = f64::INFINITY;
    for turn in 0..=REPEAT {
        let start = Instant::now();
        call()?;
        if let Device::Cuda(index) = device {
            stream::synchronize(index)?;
        }
        if turn > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_measured() {
        let figures = measure(0);
        let [figure] = figures.as_slice() else {
            panic!("{figures:?}");
        };
        assert_eq!((figure.device.as_str(), figure.matmul_kind), ("cpu", "f32"));
        assert!(figure.copy_gb_per_s > 0.05 && figure.copy_gb_per_s < 1e4);
        assert!(figure.matmul_tflops > 1e-4 && figure.matmul_tflops < 1e2);
        assert_eq!(figure.upload_gb_per_s, None);
    }
}
