//! The hosts: the coordinator and the agents as they are in production, up to disk, bucket, network and trainers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId};
use diptych_coordinator::core::{Mono, Settings, State, check_invariants};
use diptych_coordinator::driver::{Ground, Handle, Options, start_on};
use diptych_coordinator::grpc;
use diptych_coordinator::queue::explain;
use diptych_proto::v1;
use diptych_worker::agent::core::Patience;
use diptych_worker::agent::logs::LogBook;
use diptych_worker::agent::peers::Peers;
use diptych_worker::agent::watch::Watch;
use diptych_worker::agent::{AgentOptions, run};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::bucket::Bucket;
use crate::journal::Disk;
use crate::net::{COORDINATOR, PEERS, ToCoordinator, ToPeers, incoming};
use crate::trainer::Simulated;
use crate::world::{Standing, World, WorldClock};

/// How often the coordinator's state is held against the promises.
const LOOK: Duration = Duration::from_millis(10);
const DEVICES: u32 = 2;

/// Runs a coordinator until its host dies.
pub(crate) async fn coordinator(world: Arc<World>, dir: Arc<Path>) -> turmoil::Result {
    let options = Options {
        data_dir: dir.join("coordinator"),
        settings: Settings {
            settle: Duration::ZERO,
            backoff: Duration::ZERO,
            suspect_after: 0,
            ..Settings::default()
        },
        traces: None,
    };
    let ground = Ground {
        journal: Box::new(Disk(Arc::clone(&world))),
        history: Arc::new(Disk(Arc::clone(&world))),
        stores: Arc::new(Bucket::of(&world)),
        wall: Arc::new(WorldClock(Arc::clone(&world))),
    };
    let stop = CancellationToken::new();
    let (handle, _owner) = start_on(options, ground, stop.clone()).await?;
    tokio::spawn(watch(handle.clone(), world));
    let connections = incoming(COORDINATOR.1).await?;
    let router = grpc::router(handle, stop).await?;
    router.serve_with_incoming(connections).await?;
    Ok(())
}

/// Holds the state against the promises, all the time.
async fn watch(handle: Handle, world: Arc<World>) {
    let mut seen: BTreeMap<JobId, Attempt> = BTreeMap::new();
    loop {
        let of = Arc::clone(&world);
        let looked = handle.read(move |state, now| {
            tell(state, now, &of);
            look(state, &of)
        });
        let Ok(attempts) = looked.await else { return };
        for (job, attempt) in &attempts {
            let before = seen.get(job).copied().unwrap_or_default();
            world.holds(*attempt >= before, || format!("{job}: attempts only grow"));
        }
        seen = attempts;
        tokio::time::sleep(LOOK).await;
    }
}

/// Where it asks, what every unfinished job waits for.
fn tell(state: &State, now: Mono, world: &World) {
    let mut standing = world.standing();
    if matches!(*standing, Standing::Asked) {
        let jobs = state.jobs().values().filter(|job| job.is_active());
        let why = jobs.map(|job| {
            format!(
                "{} {:?}: {:?}",
                job.id(),
                job.live(),
                explain(state, job, now)
            )
        });
        let workers = state.workers().values().map(|worker| format!("{worker:?}"));
        *standing = Standing::Told(why.chain(workers).collect());
    }
}

fn look(state: &State, world: &World) -> BTreeMap<JobId, Attempt> {
    if let Err(broken) = check_invariants(state) {
        world.holds(false, || broken);
    }
    if let Err(broken) = world.rows().stored.check(state) {
        world.holds(false, || broken);
    }
    let attempt = |(id, job): (&JobId, &Arc<diptych_coordinator::core::Job>)| {
        (id.clone(), job.record.last_attempt)
    };
    state.jobs().iter().map(attempt).collect()
}

/// Runs an agent until its host dies or it is asked to leave.
pub(crate) async fn agent(
    world: Arc<World>,
    dir: Arc<Path>,
    name: &'static str,
) -> turmoil::Result {
    let trainers = Simulated::new(&world, name);
    let peers = Peers::new(name.parse()?, ToPeers);
    let connections = incoming(PEERS).await?;
    let server = Server::builder().add_service(peers.0.service());
    tokio::spawn(async move { server.serve_with_incoming(connections).await });
    let device = |index| v1::DeviceInfo {
        index,
        kind: "cpu".to_owned(),
        name: "simulated".to_owned(),
        ..v1::DeviceInfo::default()
    };
    let options = AgentOptions {
        coordinator: ToCoordinator,
        register: v1::Register {
            worker_id: name.to_owned(),
            incarnation: uuid::Uuid::new_v4().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: diptych_proto::PROTOCOL,
            host: name.to_owned(),
            devices: (0..DEVICES).map(device).collect(),
            running: Vec::new(),
            peer_endpoint: format!("{name}:{PEERS}"),
        },
        trainers,
        faults: tokio::sync::mpsc::channel(1).1,
        peers,
        stores: Arc::new(Bucket::of(&world)),
        book: LogBook::new(dir.join(name)),
        patience: Patience {
            abort_grace: Duration::from_secs(2),
            hold_grace: Duration::from_secs(5),
            orphan_limit: Duration::from_secs(600),
            unresponsive: Duration::from_secs(3),
            leave_grace: Duration::from_secs(5),
        },
        watch: Watch::default(),
        seed: world.dice(0..u64::MAX),
    };
    let stops = UnboundedReceiverStream::new(world.listens(name));
    run(options, stops).await?;
    world.power_off(name);
    Ok(())
}
