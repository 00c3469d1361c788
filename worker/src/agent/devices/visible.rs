use std::collections::BTreeSet;

use super::Found;

/// The GPUs that `CUDA_VISIBLE_DEVICES` shows: all where it is not set; where it is, CUDA reads a list of numbers and
/// beginnings of UUIDs up to the first entry that names no GPU.
pub(super) fn visible(variable: Option<&str>, found: &[Found]) -> BTreeSet<u32> {
    let Some(list) = variable else {
        return found.iter().map(|found| found.index).collect();
    };
    list.split(',')
        .map_while(|entry| named(entry.trim(), found))
        .collect()
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
            let shown = visible(variable, &found);
            assert_eq!(
                shown.into_iter().collect::<Vec<_>>(),
                expected,
                "{variable:?}"
            );
        }
    }
}
