use std::collections::BTreeMap;
use std::ffi::c_int;

use super::{Gpu, Nvml, NvmlError};

/// The fastest way between two devices of a machine, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// NVLink, or one board.
    Bridge,
    /// PCIe switches alone.
    Switch,
    /// One host bridge.
    HostBridge,
    /// One NUMA node, over its bridges.
    Node,
    /// The connection between NUMA nodes.
    System,
}

/// Where a device is, as labels that placement compares: equal values are near.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// `numa`, `nvlink`, `switch`, each with the lowest index of the devices that share it.
    pub labels: BTreeMap<&'static str, String>,
}

/// `NVML_P2P_CAPS_INDEX_NVLINK` and `NVML_P2P_STATUS_OK`.
const OVER_NVLINK: c_int = 2;
const CONNECTED: c_int = 0;

// === impl Link ===

impl Link {
    /// From `nvmlGpuTopologyLevel_t`.
    fn of_level(level: c_int) -> Self {
        match level {
            0 => Self::Bridge,
            1..=20 => Self::Switch,
            21..=30 => Self::HostBridge,
            31..=40 => Self::Node,
            _ => Self::System,
        }
    }

    /// As `nvidia-smi topo -m` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "NVL",
            Self::Switch => "PIX",
            Self::HostBridge => "PHB",
            Self::Node => "NODE",
            Self::System => "SYS",
        }
    }
}

// === impl Nvml ===

impl Nvml {
    /// How devices `a` and `b` reach each other.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn link(&self, a: u32, b: u32) -> Result<Link, NvmlError> {
        let (one, other) = (self.handle(a)?, self.handle(b)?);
        let (mut status, mut level) = (-1, 0);
        // SAFETY: live handles and a place for the answer.
        let peered = unsafe { (self.call.peer)(one, other, OVER_NVLINK, &mut status) };
        if peered == 0 && status == CONNECTED {
            return Ok(Link::Bridge);
        }
        // SAFETY: as above.
        let code = unsafe { (self.call.ancestor)(one, other, &mut level) };
        self.check("nvmlDeviceGetTopologyCommonAncestor", code)?;
        Ok(Link::of_level(level))
    }

    /// Labels of each of these devices, in their order. A device whose links the library does not tell lacks their
    /// labels: ranks on it run all the same.
    pub fn places(&self, gpus: &[Gpu]) -> Vec<Place> {
        let mut places = vec![Place::default(); gpus.len()];
        for (at, gpu) in gpus.iter().enumerate() {
            let labels = &mut places[at].labels;
            if let Some(node) = gpu.numa_node {
                labels.insert("numa", node.to_string());
            }
            let links: Vec<(u32, Result<Link, NvmlError>)> = gpus[..at]
                .iter()
                .map(|other| (other.index, self.link(other.index, gpu.index)))
                .collect();
            if let Some(error) = links.iter().find_map(|(_, link)| link.as_ref().err()) {
                tracing::warn!(gpu = gpu.index, %error, "how this GPU is connected is not known");
            }
            for (word, farthest) in [("nvlink", Link::Bridge), ("switch", Link::Switch)] {
                if let Some(island) = island(gpu.index, &links, farthest) {
                    labels.insert(word, island.to_string());
                }
            }
        }
        places
    }
}

/// The first device that is as near as that names the island, a device without such neighbours its own. `None` where
/// the first one cannot be told.
fn island(own: u32, links: &[(u32, Result<Link, NvmlError>)], farthest: Link) -> Option<u32> {
    for (other, link) in links {
        match link {
            Ok(link) if *link <= farthest => return Some(*other),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    Some(own)
}
