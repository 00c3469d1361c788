//! Cores of this machine, and which of them decode for which GPU.

use std::collections::BTreeSet;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// Some cores, by the kernel's numbers.
pub type Cores = BTreeSet<usize>;

/// The cores that this process may use; empty where the system does not say.
pub(super) fn allowed() -> Cores {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Cores::new();
    };
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}

/// Reads a list as Linux writes it, e.g. `0-15,32-47`. `None` where it is none.
pub(super) fn parse(list: &str) -> Option<Cores> {
    let mut cores = Cores::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::count() {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// Shares `allowed` cores out among GPUs, each of which says which cores are near it: GPUs with the same near cores share
/// these evenly. Where one does not say, or none of what is near it may be used, all share all cores. Empty shares where
/// nothing is known of the cores at all.
pub(super) fn shares(allowed: &Cores, near: &[Option<Cores>]) -> Vec<Cores> {
    let known = |near: &Option<Cores>| {
        let usable: Cores = near.as_ref()?.intersection(allowed).copied().collect();
        (!usable.is_empty()).then_some(usable)
    };
    let Some(near) = near.iter().map(known).collect::<Option<Vec<Cores>>>() else {
        return even(allowed, near.len());
    };
    (0..near.len())
        .map(|gpu| {
            let island: Vec<usize> = (0..near.len())
                .filter(|of| near[*of] == near[gpu])
                .collect();
            let place = island.iter().position(|of| *of == gpu).unwrap_or(0);
            even(&near[gpu], island.len()).swap_remove(place)
        })
        .collect()
}

/// Each run of neighbouring cores is cut evenly, because the runs of a node are most often its cores and then their second
/// threads: so nobody gets the second threads of another's cores. All cores for everybody where there are too few.
fn even(cores: &Cores, parts: usize) -> Vec<Cores> {
    let by_run = cut(&runs(cores), parts);
    if by_run.iter().all(|share| !share.is_empty()) {
        return by_run;
    }
    let flat = cut(&[cores.iter().copied().collect()], parts);
    if flat.iter().all(|share| !share.is_empty()) {
        return flat;
    }
    vec![cores.clone(); parts]
}

fn cut(runs: &[Vec<usize>], parts: usize) -> Vec<Cores> {
    let mut shares = vec![Cores::new(); parts];
    for run in runs {
        for (part, share) in shares.iter_mut().enumerate() {
            let bounds = (run.len() * part / parts)..(run.len() * (part + 1) / parts);
            share.extend(&run[bounds]);
        }
    }
    shares
}

/// Neighbouring cores together.
fn runs(cores: &Cores) -> Vec<Vec<usize>> {
    let mut runs: Vec<Vec<usize>> = Vec::new();
    for &core in cores {
        match runs
            .last_mut()
            .filter(|run| run.last().is_some_and(|last| last + 1 == core))
        {
            Some(run) => run.push(core),
            None => runs.push(vec![core]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Cores {
        match text {
            "" => Cores::new(),
            text => parse(text).expect("a list"),
        }
    }

    #[test]
    fn lists_are_read_as_linux_writes_them() {
        assert_eq!(parse("0-3,8,10-11\n"), Some([0, 1, 2, 3, 8, 10, 11].into()));
        for text in ["", "a", "3-1", "0-", "0-999999999999"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    /// Allowed cores, what is near each GPU, what each gets.
    type Case = (
        &'static str,
        &'static [Option<&'static str>],
        &'static [&'static str],
    );

    #[test]
    fn cores_are_shared_out_by_nearness() {
        let cases: [Case; 9] = [
            // Alone.
            ("0-7", &[Some("0-7")], &["0-7"]),
            // One node, whole, and two whose cores have second threads.
            ("0-31", &[Some("0-31"); 2], &["0-15", "16-31"]),
            (
                "0-63",
                &[
                    Some("0-15,32-47"),
                    Some("0-15,32-47"),
                    Some("16-31,48-63"),
                    Some("16-31,48-63"),
                ],
                &["0-7,32-39", "8-15,40-47", "16-23,48-55", "24-31,56-63"],
            ),
            // A node with more GPUs than the other.
            (
                "0-7",
                &[Some("0-3"), Some("4-7"), Some("0-3")],
                &["0-1", "4-7", "2-3"],
            ),
            // A container that may use a part of each node.
            ("2-5", &[Some("0-3"), Some("4-7")], &["2-3", "4-5"]),
            // One node is not known, or wholly forbidden: plain shares.
            ("0-7", &[None, Some("4-7")], &["0-3", "4-7"]),
            ("0-3", &[Some("0-3"), Some("4-7")], &["0-1", "2-3"]),
            // Fewer cores than GPUs: everybody may use all.
            ("0-1", &[None, None, None], &["0-1", "0-1", "0-1"]),
            // Nothing is known.
            ("", &[Some("0-3")], &[""]),
        ];
        for (allowed, near, expected) in cases {
            let near: Vec<Option<Cores>> = near.iter().map(|near| near.map(list)).collect();
            let expected: Vec<Cores> = expected.iter().map(|text| list(text)).collect();
            assert_eq!(
                shares(&list(allowed), &near),
                expected,
                "{allowed} {near:?}"
            );
        }
    }

    #[test]
    fn cores_that_do_not_go_evenly_are_all_given_out_once() {
        let shared = shares(&list("0-9"), &[None, None, None]);
        let sizes: Vec<_> = shared.iter().map(Cores::len).collect();
        assert_eq!(sizes, [3, 3, 4]);
        let all: Cores = shared.into_iter().flatten().collect();
        assert_eq!(all, list("0-9"));
        // Every other core: runs of one cannot be cut.
        let scattered: Cores = (0..8).step_by(2).collect();
        assert_eq!(
            shares(&scattered, &[None, None]),
            [list("0,2"), list("4,6")]
        );
    }

    #[test]
    fn this_process_may_use_some_core() {
        assert!(!allowed().is_empty());
    }
}
