use std::fmt;
use std::str::FromStr;

use tch::Device;

use super::cuda::{self, CudaError};

/// A device as a flag names it: `cpu`, `cuda` (the first one) or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The CUDA device of this index, of those that this process may use.
    Cuda(u32),
}

/// Why a text names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device: use cpu, cuda or cuda:N")]
pub struct NoDevice(String);

// === impl DeviceChoice ===

impl DeviceChoice {
    /// Makes the device ready. For CUDA this must come before anything else asks libtorch about it.
    ///
    /// # Errors
    /// [`CudaError`] where there is no such device.
    pub fn open(self) -> Result<Device, CudaError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(asked) => {
                let devices = cuda::load()?.devices;
                if asked < devices {
                    Ok(Device::Cuda(asked as usize))
                } else {
                    Err(CudaError::NoSuchDevice { asked, devices })
                }
            }
        }
    }

    /// Whether it is a CUDA device.
    pub fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

impl FromStr for DeviceChoice {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let refused = || NoDevice(text.to_owned());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self::Cuda(index.parse().map_err(|_| refused())?))
            }
            None | Some(_) => Err(refused()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, choice) in [
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:12", DeviceChoice::Cuda(12)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
    }

    #[test]
    fn other_words_are_refused_with_the_right_ones() {
        for text in [
            "",
            "gpu",
            "CUDA",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda:99999999999",
            "cpu:0",
        ] {
            let error = text.parse::<DeviceChoice>().expect_err("no device");
            assert!(error.to_string().contains("cpu, cuda or cuda:N"), "{error}");
        }
    }
}
