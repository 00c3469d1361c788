//! Who makes room for a job of higher priority.

use std::cmp::Reverse;

use diptych_common::ids::JobId;

/// A gang that steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Whose.
    pub job: JobId,
    /// Higher runs first.
    pub priority: i32,
    /// Order of submission.
    pub sequence: u64,
    /// Its ranks.
    pub world: usize,
    /// The fewest that it may have.
    pub min: usize,
}

/// What a gang gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yielded {
    /// Whose.
    pub job: JobId,
    /// So many of its ranks; all of them stops it.
    pub ranks: usize,
}

/// Who gives what, so that a job of this priority gets the `lacking` devices that it needs; nobody gives anything where
/// that is not enough. Only gangs of lower priority give: the lowest first, of these the youngest. Gangs shrink before
/// any stops.
pub fn preempt(lacking: usize, priority: i32, running: &[Running]) -> Vec<Yielded> {
    let mut victims: Vec<&Running> = running
        .iter()
        .filter(|gang| gang.priority < priority)
        .collect();
    victims.sort_by_key(|gang| (gang.priority, Reverse(gang.sequence)));
    let mut gives = vec![0; victims.len()];
    let mut left = lacking;
    for (gang, gives) in victims.iter().zip(&mut gives) {
        *gives = left.min(gang.world.saturating_sub(gang.min));
        left -= *gives;
    }
    for (gang, gives) in victims.iter().zip(&mut gives) {
        if left > 0 {
            left = left.saturating_sub(gang.world - *gives);
            *gives = gang.world;
        }
    }
    if left > 0 {
        return Vec::new();
    }
    // A gang that stops may have made another one's part superfluous.
    let mut spare = gives.iter().sum::<usize>() - lacking;
    for (gang, gives) in victims.iter().zip(&mut gives).rev() {
        if *gives < gang.world || *gives <= spare {
            let back = spare.min(*gives);
            *gives -= back;
            spare -= back;
        }
    }
    victims
        .iter()
        .zip(gives)
        .filter(|(_, ranks)| *ranks > 0)
        .map(|(gang, ranks)| Yielded {
            job: gang.job.clone(),
            ranks,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gang(job: &str, priority: i32, sequence: u64, (min, world): (usize, usize)) -> Running {
        Running {
            job: job.parse().unwrap(),
            priority,
            sequence,
            world,
            min,
        }
    }

    fn gives(lacking: usize, running: &[Running]) -> Vec<(String, usize)> {
        let all = preempt(lacking, 5, running);
        all.into_iter()
            .map(|given| (given.job.to_string(), given.ranks))
            .collect()
    }

    #[test]
    fn lowest_and_youngest_first_and_shrinking_before_stopping() {
        let running = [
            gang("old", 0, 1, (1, 3)),
            gang("young", 0, 2, (1, 3)),
            gang("higher", 1, 3, (1, 4)),
            gang("equal", 5, 4, (1, 9)),
        ];
        let told = |all: &[(&str, usize)]| -> Vec<_> {
            all.iter().map(|(job, n)| ((*job).to_owned(), *n)).collect()
        };
        assert_eq!(gives(1, &running), told(&[("young", 1)]));
        assert_eq!(gives(3, &running), told(&[("young", 2), ("old", 1)]));
        assert_eq!(
            gives(8, &running),
            told(&[("young", 3), ("old", 2), ("higher", 3)])
        );
        assert_eq!(
            gives(10, &running),
            told(&[("young", 3), ("old", 3), ("higher", 4)])
        );
        assert_eq!(gives(11, &running), told(&[]), "it would not be enough");
    }

    #[test]
    fn a_gang_that_stops_spares_others() {
        let running = [gang("rigid", 0, 2, (4, 4)), gang("elastic", 1, 1, (1, 2))];
        assert_eq!(gives(2, &running), [("rigid".to_owned(), 4)]);
    }

    proptest! {
        #[test]
        fn enough_or_nothing(
            lacking in 1_usize..12,
            gangs in prop::collection::vec((0_i32..7, 1_usize..4, 0_usize..4), 0..6),
        ) {
            let running: Vec<_> = (0..).zip(&gangs)
                .map(|(n, (priority, min, more))| gang(&format!("j{n}"), *priority, n, (*min, min + more)))
                .collect();
            let given = preempt(lacking, 5, &running);
            let sum: usize = given.iter().map(|given| given.ranks).sum();
            prop_assert!(given.is_empty() || sum >= lacking);
            for given in &given {
                let gang = running.iter().find(|gang| gang.job == given.job).unwrap();
                prop_assert!(gang.priority < 5);
                prop_assert!(given.ranks == gang.world || gang.world - given.ranks >= gang.min, "{given:?} of {gang:?}");
            }
            let most: usize = running.iter().filter(|gang| gang.priority < 5).map(|gang| gang.world).sum();
            prop_assert_eq!(given.is_empty(), most < lacking);
        }
    }
}
