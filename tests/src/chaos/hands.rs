//! Does what a fault says to a running cluster, and mends it.

use anyhow::{Context, Result};
use nix::unistd::Pid;
use std::time::Duration;

use super::fault::{Fault, Kind};
use super::network::Network;
use crate::cluster::Cluster;
use crate::process::{freeze, kill_now, thaw};
use crate::proxy::{Proxy, Wire};

/// A cluster and the wires around it.
#[derive(Debug)]
pub struct Hands {
    /// The cluster.
    pub cluster: Cluster,
    /// Between every program and the bucket.
    pub store: Proxy,
    /// Where links between agents can be cut.
    pub network: Option<Network>,
}

/// What mends a fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Remedy {
    /// It needs none.
    Nothing,
    /// Lets a process go on.
    Thaw(Pid),
    /// Starts an agent.
    ReviveAgent(usize),
    /// Starts the coordinator.
    ReviveCoordinator,
    /// Opens an agent's wire.
    OpenWire(usize),
    /// Opens the store's wire.
    OpenStore,
    /// Ends cuts between agents, (from, to) each.
    Mend(Vec<(usize, usize)>),
}

/// A slow store's bytes per second.
const SLOW: u64 = 1_000_000;
const LATE: Duration = Duration::from_millis(200);
/// Percent of the requests that an unwell store turns away.
const UNWELL: u64 = 30;

impl Hands {
    /// Does it; `None` where nobody is there that it could hit.
    ///
    /// # Errors
    /// When a process cannot be signalled or a link not cut.
    pub fn harm(&mut self, fault: &Fault) -> Result<Option<Remedy>> {
        let target = fault.target;
        let wire = |wire: Wire| -> Result<Remedy> {
            self.cluster.wire(target)?.set(wire);
            Ok(Remedy::OpenWire(target))
        };
        let frozen = |up, down| Wire::Frozen { up, down };
        let store = |wire: Wire| {
            self.store.set(wire);
            Remedy::OpenStore
        };
        let remedy = match fault.kind {
            Kind::KillTrainer | Kind::StopTrainer => {
                let Some(trainer) = self.trainer(target)? else {
                    return Ok(None);
                };
                if fault.kind == Kind::KillTrainer {
                    kill_now(trainer)?;
                    Remedy::Nothing
                } else {
                    freeze(trainer)?;
                    Remedy::Thaw(trainer)
                }
            }
            Kind::KillAgent => {
                self.cluster.kill_agent(target)?;
                Remedy::ReviveAgent(target)
            }
            Kind::StopAgent => {
                let pid = self.cluster.agent(target).pid();
                freeze(pid)?;
                Remedy::Thaw(pid)
            }
            Kind::KillCoordinator => {
                self.cluster.kill_coordinator()?;
                Remedy::ReviveCoordinator
            }
            Kind::StopCoordinator => {
                let pid = self.cluster.coordinator()?.pid();
                freeze(pid)?;
                Remedy::Thaw(pid)
            }
            Kind::CutControl => wire(Wire::Cut)?,
            Kind::FreezeControl => wire(frozen(true, true))?,
            Kind::FreezeUp => wire(frozen(true, false))?,
            Kind::FreezeDown => wire(frozen(false, true))?,
            Kind::LateControl => wire(Wire::Late(LATE))?,
            Kind::StoreDown => store(Wire::Cut),
            Kind::StoreSilent => store(frozen(true, true)),
            Kind::StoreSlow => store(Wire::Slow(SLOW)),
            Kind::StoreUnwell => store(Wire::Unwell(UNWELL)),
            Kind::CutPeers => self.cut(&[(target, fault.other), (fault.other, target)])?,
            Kind::CutPeersOneWay => self.cut(&[(target, fault.other)])?,
        };
        Ok(Some(remedy))
    }

    /// Mends it.
    ///
    /// # Errors
    /// When a program does not start again.
    pub async fn mend(&mut self, remedy: Remedy) -> Result<()> {
        match remedy {
            Remedy::Nothing => Ok(()),
            Remedy::Thaw(pid) => {
                thaw(pid);
                Ok(())
            }
            Remedy::ReviveAgent(agent) => self.cluster.revive_agent(agent),
            Remedy::ReviveCoordinator => self.cluster.revive_coordinator().await,
            Remedy::OpenWire(agent) => {
                self.cluster.wire(agent)?.set(Wire::Open);
                Ok(())
            }
            Remedy::OpenStore => {
                self.store.set(Wire::Open);
                Ok(())
            }
            Remedy::Mend(cuts) => {
                let network = self.network.as_ref().context("links can be cut")?;
                cuts.iter()
                    .try_for_each(|(from, to)| network.mend(*from, *to))
            }
        }
    }

    fn cut(&self, cuts: &[(usize, usize)]) -> Result<Remedy> {
        let network = self
            .network
            .as_ref()
            .context("links between agents can only be cut with --namespaces")?;
        cuts.iter()
            .try_for_each(|(from, to)| network.cut(*from, *to))?;
        Ok(Remedy::Mend(cuts.to_vec()))
    }

    /// The trainer of the first agent from `target` on that has one.
    fn trainer(&self, target: usize) -> Result<Option<Pid>> {
        let agents = self.cluster.agents();
        for agent in (target..target + agents).map(|n| n % agents) {
            // An agent that is just dead has none.
            let trainers = self.cluster.agent(agent).children("trainer");
            if let Some(trainer) = trainers.unwrap_or_default().first() {
                return Ok(Some(*trainer));
            }
        }
        Ok(None)
    }
}
