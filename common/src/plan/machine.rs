//! How fast a device computes and sends, as far as a plan needs to know.

use serde::Serialize;

use crate::spec::{Device, Precision};

/// A kind of device by its data sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sheet {
    /// What `--device` calls it.
    pub name: &'static str,
    /// Peak operations per second in 10¹², dense: in bf16, and in fp32 without reduced-precision matrix units.
    pub bf16_tflops: f64,
    /// See above.
    pub fp32_tflops: f64,
    /// fp64, the same way.
    pub fp64_tflops: f64,
    /// Memory in GiB; 0 where it is the machine's.
    pub memory_gib: u64,
    /// Share of the bf16 peak that training a ResNet-50 reaches.
    pub bf16_mfu: f64,
    /// What one device sends, in 10⁹ bits per second.
    pub wire_gbit: f64,
    /// How long a small collective takes.
    pub latency_us: f64,
}

/// Share of the fp32 and fp64 peaks that training a ResNet-50 reaches: 0.57 on a V100 (NVIDIA, fp32, 367 images/s).
const FULL_PRECISION_MFU: f64 = 0.5;

/// The devices that are known by name. Peaks of GPUs are the vendors' (SXM boards). What training reaches of them is
/// NVIDIA's published ResNet-50 in PyTorch for A100 (2,470 images/s) and V100 (1,200), and half of its MLPerf result for
/// H100, which is not PyTorch's. A 400, 200 or 100 Gbit/s port for each, as in DGX machines, and 30 µs for a small NCCL
/// call are assumed. `cpu` is one AVX2 core at 2.5 GHz with 10 Gbit/s and 200 µs over TCP.
pub const SHEETS: [Sheet; 6] = [
    sheet("h200", (989.0, 67.0, 34.0), (141, 0.1), (400.0, 30.0)),
    sheet("h100", (989.0, 67.0, 34.0), (80, 0.1), (400.0, 30.0)),
    sheet("a100", (312.0, 19.5, 9.7), (80, 0.19), (200.0, 30.0)),
    sheet("v100", (125.0, 15.7, 7.8), (32, 0.23), (100.0, 30.0)),
    sheet("l4", (121.0, 30.3, 0.5), (24, 0.19), (50.0, 30.0)),
    sheet("cpu", (0.08, 0.08, 0.04), (0, 0.5), (10.0, 200.0)),
];

const fn sheet(
    name: &'static str,
    (bf16_tflops, fp32_tflops, fp64_tflops): (f64, f64, f64),
    (memory_gib, bf16_mfu): (u64, f64),
    (wire_gbit, latency_us): (f64, f64),
) -> Sheet {
    Sheet {
        name,
        bf16_tflops,
        fp32_tflops,
        fp64_tflops,
        memory_gib,
        bf16_mfu,
        wire_gbit,
        latency_us,
    }
}

/// What a plan reckons with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// The device's name, or `stated`.
    pub device: String,
    /// Peak operations per second in 10¹² of a sheet, or as stated; `None` where the precision picks it from the sheet.
    #[serde(skip)]
    pub tflops: Option<f64>,
    /// The sheet behind the numbers that were not stated.
    #[serde(skip)]
    pub sheet: Sheet,
    /// Share of the peak that training reaches, where it was stated; else the sheet's.
    pub mfu: Option<f64>,
    /// What one device sends, in 10⁹ bits per second.
    pub wire_gbit: f64,
    /// How long a small collective takes, in microseconds.
    pub latency_us: f64,
}

impl Sheet {
    /// The sheet of a name.
    pub fn named(name: &str) -> Option<Self> {
        SHEETS.into_iter().find(|sheet| sheet.name == name)
    }

    /// What is assumed of a kind of device.
    pub fn usual(device: Device) -> Self {
        match device {
            Device::Cuda => SHEETS[1],
            Device::Cpu => SHEETS[5],
        }
    }

    /// Peak operations per second in 10¹² at a precision.
    pub fn tflops(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Bf16 => self.bf16_tflops,
            Precision::Fp32 => self.fp32_tflops,
            Precision::Fp64 => self.fp64_tflops,
        }
    }

    fn mfu(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Bf16 => self.bf16_mfu,
            Precision::Fp32 | Precision::Fp64 => FULL_PRECISION_MFU,
        }
    }
}

impl Machine {
    /// A device by its sheet.
    pub fn of(sheet: Sheet) -> Self {
        Self {
            device: sheet.name.to_owned(),
            tflops: None,
            sheet,
            mfu: None,
            wire_gbit: sheet.wire_gbit,
            latency_us: sheet.latency_us,
        }
    }

    /// Share of the peak that training reaches.
    pub fn mfu(&self, precision: Precision) -> f64 {
        self.mfu.unwrap_or_else(|| self.sheet.mfu(precision))
    }

    /// Operations that training does in a second.
    pub fn flops_per_s(&self, precision: Precision) -> f64 {
        let peak = self.tflops.unwrap_or_else(|| self.sheet.tflops(precision));
        peak * 1e12 * self.mfu(precision)
    }

    /// Bytes that a device sends in a second.
    pub(super) fn bytes_per_s(&self) -> f64 {
        self.wire_gbit * 1e9 / 8.0
    }

    pub(super) fn latency_s(&self) -> f64 {
        self.latency_us * 1e-6
    }
}
