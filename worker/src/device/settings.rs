use diptych_common::spec::{self, Gang, Precision};
use tch::{Device, Kind, Tensor};

use super::cuda::{self, CudaError};
use super::shim::{self, Autocast};
use super::{DeviceChoice, StepError};

/// Where and how a trainer computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compute {
    /// The device that holds weights and batches.
    pub device: Device,
    /// Precision of forward and backward.
    pub precision: Precision,
    /// Order of activations and convolution weights in memory.
    pub layout: Layout,
}

/// Order of a four-dimensional tensor in memory; names and shapes are the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// NCHW.
    Planes,
    /// NHWC.
    ChannelsLast,
}

impl Compute {
    /// The usual choice for a CPU, see [`Compute::on`].
    pub fn cpu(precision: Precision) -> Self {
        Self::on(Device::Cpu, precision)
    }

    /// The usual choice for a device: NHWC where the network allows it (see [`Compute::for_channels`]). On a CPU
    /// convolutions and batch norms of ResNet-18 took 0.78 to 0.89 of the time in it that they took in NCHW (AVX2, widths
    /// 1/4 and 1, 16 and 32 pixels); a GPU's tensor cores read it. oneDNN has no fp64 kernels for it, nor do tensor cores.
    pub fn on(device: Device, precision: Precision) -> Self {
        let layout = match precision {
            Precision::Fp32 | Precision::Bf16 => Layout::ChannelsLast,
            Precision::Fp64 => Layout::Planes,
        };
        Self {
            device,
            precision,
            layout,
        }
    }

    /// What a phase's gang asks for, on the device of this index or, where this process may use only one, on that one.
    /// Sets up CUDA for the whole process; that must come before anything else asks libtorch about it.
    ///
    /// # Errors
    /// What CUDA lacks, with what to do.
    pub fn of_gang(gang: &Gang, index: u32) -> Result<Self, CudaError> {
        let choice = match gang.device {
            spec::Device::Cpu => DeviceChoice::Cpu,
            spec::Device::Cuda => match cuda::load()?.devices {
                1 => DeviceChoice::Cuda(0),
                _ => DeviceChoice::Cuda(index),
            },
        };
        let device = choice.open()?;
        if device.is_cuda() {
            cuda::configure(gang.tf32, gang.deterministic)?;
        }
        Ok(Self::on(device, gang.precision))
    }

    /// The same for a network whose convolutions write so many channels. oneDNN's NHWC convolutions write past their
    /// buffers below 8 channels (oneDNN of libtorch 2.11, AVX2: PyTorch crashes as well), so on a CPU NHWC is for whole
    /// vectors of 8 only.
    pub fn for_channels(self, mut channels: impl Iterator<Item = i64>) -> Self {
        let fits = self.device.is_cuda() || channels.all(|count| count % 8 == 0);
        let layout = match self.layout {
            Layout::ChannelsLast if fits => Layout::ChannelsLast,
            Layout::ChannelsLast | Layout::Planes => Layout::Planes,
        };
        Self { layout, ..self }
    }

    /// Sets how many threads libtorch uses inside one operation, for the whole process.
    pub fn set_threads(threads: u32) {
        tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
    }

    /// Dtype of weights, statistics, momentum and losses.
    pub fn kind(&self) -> Kind {
        match self.precision {
            Precision::Fp64 => Kind::Double,
            Precision::Fp32 | Precision::Bf16 => Kind::Float,
        }
    }

    /// Moves a batch or weight to the device, in this dtype and layout. From pinned memory the host does not wait.
    ///
    /// # Errors
    /// [`StepError::Torch`], for example out of memory.
    pub fn place(&self, tensor: &Tensor) -> Result<Tensor, StepError> {
        let moved = tensor.f_to_device_(self.device, tensor.kind(), true, false)?;
        let placed = moved.f_to_kind(self.kind())?;
        match self.layout {
            Layout::ChannelsLast if placed.dim() == 4 => Ok(shim::channels_last(&placed)?),
            _ => Ok(placed.f_contiguous()?),
        }
    }

    /// Autocast for as long as the guard lives, where the precision asks for it.
    pub(crate) fn autocast(&self) -> Result<Option<Autocast>, StepError> {
        match self.precision {
            Precision::Bf16 => Ok(Some(Autocast::enter(self.device)?)),
            Precision::Fp32 | Precision::Fp64 => Ok(None),
        }
    }
}
