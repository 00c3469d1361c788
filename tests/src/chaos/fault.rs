//! What can go wrong, and a seeded schedule of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    KillTrainer,
    StopTrainer,
    KillAgent,
    StopAgent,
    KillCoordinator,
    StopCoordinator,
    CutControl,
    FreezeControl,
    FreezeUp,
    FreezeDown,
    LateControl,
    StoreDown,
    StoreSilent,
    StoreSlow,
    StoreUnwell,
    CutPeers,
    CutPeersOneWay,
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// To which agent, where it is about one.
    pub target: usize,
    /// The other end, where it is about a link between two.
    pub other: usize,
    /// Once this step is committed,
    pub step: u64,
    /// and after this.
    pub pause: Duration,
    /// When it is mended again.
    pub lasts: Duration,
    /// It does not wait until the one before it is mended.
    pub hot: bool,
}

use Kind::{
    CutControl, CutPeers, CutPeersOneWay, FreezeControl, FreezeDown, FreezeUp, KillAgent,
    KillCoordinator, KillTrainer, LateControl, StopAgent, StopCoordinator, StopTrainer, StoreDown,
    StoreSilent, StoreSlow, StoreUnwell,
};

impl Kind {
    /// Every kind and its name on the command line.
    pub const ALL: [(Self, &'static str); 17] = [
        (KillTrainer, "kill-trainer"),
        (StopTrainer, "stop-trainer"),
        (KillAgent, "kill-agent"),
        (StopAgent, "stop-agent"),
        (KillCoordinator, "kill-coordinator"),
        (StopCoordinator, "stop-coordinator"),
        (CutControl, "cut-control"),
        (FreezeControl, "freeze-control"),
        (FreezeUp, "freeze-up"),
        (FreezeDown, "freeze-down"),
        (LateControl, "late-control"),
        (StoreDown, "store-down"),
        (StoreSilent, "store-silent"),
        (StoreSlow, "store-slow"),
        (StoreUnwell, "store-unwell"),
        (CutPeers, "cut-peers"),
        (CutPeersOneWay, "cut-peers-one-way"),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(kind, _)| *kind == self);
        named.map_or("", |(_, name)| name)
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// Lists all names where there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        let known = Self::ALL.map(|(_, name)| name).join(", ");
        let (kind, _) = found.with_context(|| format!("kind {name:?} is none of {known}"))?;
        Ok(*kind)
    }

    /// Whether links between agents must be separate: network namespaces.
    pub fn needs_namespaces(self) -> bool {
        matches!(self, CutPeers | CutPeersOneWay)
    }

    /// Whether training must go on as if nothing had happened.
    pub fn is_harmless(self) -> bool {
        matches!(
            self,
            KillCoordinator
                | StopCoordinator
                | LateControl
                | StoreDown
                | StoreSilent
                | StoreSlow
                | StoreUnwell
        )
    }

    /// Whether it takes one worker's rank at most.
    pub fn hits_one(self) -> bool {
        matches!(
            self,
            KillTrainer
                | StopTrainer
                | KillAgent
                | StopAgent
                | CutControl
                | FreezeControl
                | FreezeUp
                | FreezeDown
        )
    }

    fn is_of_the_store(self) -> bool {
        matches!(self, StoreDown | StoreSilent | StoreSlow | StoreUnwell)
    }

    /// Milliseconds that it lasts, from and to.
    fn lasts(self) -> (u64, u64) {
        match self {
            KillTrainer => (0, 1),
            KillAgent | KillCoordinator => (0, 3000),
            StopTrainer => (4000, 8000),
            StopAgent | StopCoordinator => (1000, 8000),
            CutControl => (100, 4000),
            FreezeControl | FreezeUp | FreezeDown => (1000, 8000),
            LateControl => (2000, 4000),
            StoreDown | StoreSilent | StoreSlow | StoreUnwell => (2000, 5000),
            CutPeers | CutPeersOneWay => (1000, 9000),
        }
    }
}

/// `count` faults of these kinds over a run of `steps` steps with `agents` agents: every kind in turn, in an order that
/// the seed gives, then any. None comes in the last steps, so that the run ends after the last.
///
/// # Errors
/// When there are no kinds, or more faults than steps.
pub fn schedule(
    seed: u64,
    count: usize,
    kinds: &[Kind],
    agents: usize,
    steps: u64,
) -> Result<Vec<Fault>> {
    ensure!(!kinds.is_empty(), "no kinds of faults are given");
    ensure!(agents > 0 && steps > count as u64, "a fault needs a step");
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut bag = Vec::new();
    let (mut faults, mut calm) = (Vec::<Fault>::new(), false);
    for number in 0..count {
        if bag.is_empty() {
            bag = kinds.to_vec();
        }
        let kind = bag.swap_remove(dice.random_range(0..bag.len()));
        let slot = steps * 9 / 10 / count as u64;
        let step = slot * number as u64 + dice.random_range(1..=slot.max(2) / 2);
        // Two at once at most: three failures without a step between them end a phase, and rightly.
        let hot = calm && !kind.is_of_the_store() && dice.random_bool(0.25);
        calm = !hot && !kind.is_of_the_store();
        let (least, most) = kind.lasts();
        let target = dice.random_range(0..agents);
        let others: Vec<usize> = (0..agents).filter(|other| *other != target).collect();
        let before = faults.last().map_or(0, |fault| fault.step);
        faults.push(Fault {
            kind,
            target,
            other: others.choose(&mut dice).copied().unwrap_or(target),
            step: if hot { before } else { step },
            pause: Duration::from_millis(dice.random_range(0..if hot { 1500 } else { 300 })),
            lasts: Duration::from_millis(dice.random_range(least..most)),
            hot,
        });
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let kinds = Kind::ALL.map(|(kind, _)| kind);
        let of = |seed| schedule(seed, 34, &kinds, 3, 3400).expect("a schedule");
        let (one, again) = (of(7), of(7));
        assert_eq!(format!("{one:?}"), format!("{again:?}"));
        assert_ne!(format!("{one:?}"), format!("{:?}", of(8)));
        for kind in kinds {
            assert_eq!(one.iter().filter(|fault| fault.kind == kind).count(), 2);
            assert_eq!(Kind::parse(kind.name()).expect("a name"), kind);
        }
        assert!(one.is_sorted_by_key(|fault| fault.step));
        assert!(
            one.iter()
                .all(|fault| fault.other != fault.target && fault.step < 3100)
        );
        assert!(one.windows(2).all(|two| !(two[0].hot && two[1].hot)));
        assert!(
            Kind::parse("flood")
                .expect_err("none")
                .to_string()
                .contains("cut-peers")
        );
    }
}
