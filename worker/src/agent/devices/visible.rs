use std::collections::BTreeSet;

use super::Found;
use crate::device::nvml::Gpu;

/// What CUDA is told of its machine's GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CudaView {
    /// `CUDA_VISIBLE_DEVICES`: which it uses, and in which order; all where it is not set.
    pub visible: Option<String>,
    /// `CUDA_DEVICE_ORDER`: how it numbers them; the fastest is the first where it is not set.
    pub order: Option<String>,
}

/// Why it is not known which GPUs are shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "CUDA_VISIBLE_DEVICES={0} has numbers, and this machine's GPUs are of several kinds: CUDA then numbers them by speed, \
     otherwise than nvidia-smi. Name them by UUID (nvidia-smi -L), or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
)]
pub struct UnknownOrder(String);

// === impl CudaView ===

impl CudaView {
    /// As this process's CUDA is told.
    pub fn of_this_process() -> Self {
        Self {
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            order: std::env::var("CUDA_DEVICE_ORDER").ok(),
        }
    }

    /// The GPUs that CUDA uses.
    ///
    /// # Errors
    /// [`UnknownOrder`].
    pub fn shown(&self, found: &[Found]) -> Result<BTreeSet<u32>, UnknownOrder> {
        match &self.visible {
            None => Ok(found.iter().map(|found| found.index).collect()),
            Some(list) => Ok(self.listed(list, found)?.into_iter().collect()),
        }
    }

    /// The GPU that is `cuda:{at}`; `None` where there is none, or the order is not known.
    pub fn nth<'a>(&self, at: usize, found: &'a [Found]) -> Option<&'a Gpu> {
        let mut answering = found.iter().filter_map(|found| found.gpu.as_ref().ok());
        match &self.visible {
            None => answering.nth(at).filter(|_| self.counts_as_nvml(found)),
            Some(list) => {
                let index = *self.listed(list, found).ok()?.get(at)?;
                answering.find(|gpu| gpu.index == index)
            }
        }
    }

    /// CUDA reads a list of numbers and beginnings of UUIDs up to the first entry that names no GPU.
    fn listed(&self, list: &str, found: &[Found]) -> Result<Vec<u32>, UnknownOrder> {
        let known = self.counts_as_nvml(found);
        let mut listed = Vec::new();
        for entry in list.split(',').map(str::trim) {
            let Some(index) = named(entry, found) else {
                break;
            };
            if !known && !entry.starts_with("GPU-") {
                return Err(UnknownOrder(list.to_owned()));
            }
            listed.push(index);
        }
        Ok(listed)
    }

    /// Whether CUDA's numbers are NVML's, which follow the PCI addresses: told to, or where no GPU is faster than another.
    fn counts_as_nvml(&self, found: &[Found]) -> bool {
        let mut names = found
            .iter()
            .filter_map(|found| Some(found.gpu.as_ref().ok()?.name.as_str()));
        let first = names.next();
        self.order.as_deref() == Some("PCI_BUS_ID") || names.all(|name| Some(name) == first)
    }
}

fn named(entry: &str, found: &[Found]) -> Option<u32> {
    if let Ok(index) = entry.parse::<u32>() {
        return found
            .iter()
            .map(|found| found.index)
            .find(|of| *of == index);
    }
    if !entry.starts_with("GPU-") {
        return None;
    }
    let begins = |found: &&Found| {
        let gpu = found.gpu.as_ref();
        gpu.is_ok_and(|gpu| gpu.uuid.starts_with(entry))
    };
    let mut named = found.iter().filter(begins).map(|found| found.index);
    // One that fits several names none.
    named.next().filter(|_| named.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::devices::roster::samples::gpu;

    fn view(visible: Option<&str>, order: Option<&str>) -> CudaView {
        CudaView {
            visible: visible.map(str::to_owned),
            order: order.map(str::to_owned),
        }
    }

    /// GPU 1 is of another kind.
    fn mixed() -> Vec<Found> {
        let mut found: Vec<Found> = (0..3).map(|index| gpu(index, None)).collect();
        found[1].gpu.as_mut().expect("it answers").name = "NVIDIA A2".to_owned();
        found
    }

    #[test]
    fn the_variable_is_read_as_cuda_reads_it() {
        let found: Vec<Found> = (0..4).map(|index| gpu(index, None)).collect();
        for (variable, expected) in [
            (None, vec![0, 1, 2, 3]),
            (Some(""), vec![]),
            (Some("-1"), vec![]),
            (Some("NoDevFiles"), vec![]),
            (Some("2,0"), vec![0, 2]),
            (Some(" 1 , 3 "), vec![1, 3]),
            (Some("1,9,2"), vec![1]),
            (Some("GPU-3"), vec![3]),
            (Some("GPU-1,GPU-7,GPU-2"), vec![1]),
            (Some("GPU-"), vec![]),
            (Some("MIG-GPU-1/0/0"), vec![]),
        ] {
            let shown = view(variable, None).shown(&found).expect("one kind");
            assert_eq!(
                shown.into_iter().collect::<Vec<_>>(),
                expected,
                "{variable:?}"
            );
        }
    }

    #[test]
    fn numbers_of_gpus_of_several_kinds_count_only_in_the_order_of_their_addresses() {
        let shown = |visible, order| view(visible, order).shown(&mixed());
        let refused = |list: &str| Err(UnknownOrder(list.to_owned()));
        assert_eq!(shown(Some("1"), None), refused("1"));
        assert_eq!(
            shown(Some("GPU-0,2"), Some("FASTEST_FIRST")),
            refused("GPU-0,2")
        );
        assert_eq!(shown(Some("1"), Some("PCI_BUS_ID")), Ok([1].into()));
        // None of these depends on the order.
        assert_eq!(shown(None, None), Ok([0, 1, 2].into()));
        assert_eq!(shown(Some("GPU-1,GPU-0"), None), Ok([0, 1].into()));
        assert_eq!(shown(Some("-1"), None), Ok([].into()));
    }

    #[test]
    fn cudas_numbers_are_places_in_the_list() {
        let place = |visible, order, at| {
            let found = mixed();
            view(visible, order).nth(at, &found).map(|gpu| gpu.index)
        };
        assert_eq!(place(Some("GPU-2,GPU-0"), None, 0), Some(2));
        assert_eq!(place(Some("GPU-2,GPU-0"), None, 1), Some(0));
        assert_eq!(place(Some("GPU-2,GPU-0"), None, 2), None);
        assert_eq!(place(Some("2,1"), Some("PCI_BUS_ID"), 1), Some(1));
        assert_eq!(place(None, Some("PCI_BUS_ID"), 1), Some(1));
        // The fastest is the first, and which that is nobody says.
        assert_eq!(place(None, None, 0), None);
        assert_eq!(place(Some("0"), None, 0), None);
    }
}
