//! Real processes, one small job, and faults at random: the job ends with the weights of an undisturbed run, whatever
//! happened, and nothing hangs.

pub mod fault; // what can go wrong, and when
pub mod network; // links between agents
pub mod hands; // doing it, and mending it
pub mod account; // what it cost

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use diptych_common::clock;
use diptych_proto::v1;
use tokio::time::Instant;

use crate::cluster::{Cluster, Setting};
use crate::ledger::Ledger;
use crate::proxy::Proxy;
use crate::s3::{self, S3};
use crate::specs::{self, Small};
use crate::weights;
use account::{Cost, Failure};
use fault::{Fault, Kind};
use hands::{Hands, Remedy};
use network::Network;

/// One run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chooses faults and times.
    pub seed: u64,
    /// How many faults.
    pub faults: usize,
    /// Of which kinds.
    pub kinds: Vec<Kind>,
    /// Agents, each with one CPU slot.
    pub agents: usize,
    /// Steps of the job per fault.
    pub steps_per_fault: u64,
    /// A network namespace per agent.
    pub namespaces: bool,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What each fault cost.
    pub costs: Vec<Cost>,
    /// Faults that found nobody.
    pub missed: usize,
    /// The largest relative difference of a tensor to the undisturbed run, and which.
    pub difference: (f64, String),
    /// Ranks in the attempts that committed steps.
    pub worlds: Vec<usize>,
    /// Promises that were not kept.
    pub broken: Vec<String>,
}

/// No commit for so long while nothing is wrong is a hang.
const HUNG: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(20);
/// Final weights in double precision, whatever the world.
const TOLERANCE: f64 = 1e-8;
const PHASE: &str = "pretrain";

/// Runs the job undisturbed and then under faults.
///
/// # Errors
/// When the harness itself fails, the job does not succeed, or nothing moves any more.
pub async fn run(options: &Options) -> Result<Outcome> {
    let separate = options.kinds.iter().any(|kind| kind.needs_namespaces());
    ensure!(
        options.namespaces || !separate,
        "links between agents can only be cut with --namespaces"
    );
    let folder = tempfile::Builder::new()
        .prefix("diptych-chaos-")
        .tempdir()?;
    let network = if options.namespaces {
        Some(Network::make(options.agents)?)
    } else {
        None
    };
    let host = network
        .as_ref()
        .map_or("127.0.0.1".to_owned(), Network::host);
    let bucket = S3::start(&host, &folder.path().join("s3")).await?;
    let store = Proxy::start(&host, &bucket.address().to_string()).await?;
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let setting = Setting {
        // Flapping workers are what this is about.
        coordinator: words(&[
            "--suspect-after",
            "0",
            "--grow-after",
            "1s",
            "--reattach-grace",
            "10s",
            // Faults come faster than checkpoints: what ends a crash loop has tests of its own.
            "--failures",
            "20",
        ]),
        agents: words(&[
            "--log",
            "info,diptych_worker=debug",
            "--threads-per-device",
            "1",
        ]),
        environment: s3::environment(store.address()),
        proxied: true,
        programs: None,
        namespaces: network
            .as_ref()
            .map(|network| (host.clone(), network.names().to_vec())),
    };
    specs::images(folder.path())?;
    let cluster = Cluster::start_in(folder, &vec![1; options.agents], setting).await?;
    let mut hands = Hands {
        cluster,
        store,
        network,
    };
    let outcome = disturbed(options, &mut hands).await?;
    if outcome.broken.is_empty() {
        hands.cluster.passed()?;
    }
    Ok(outcome)
}

async fn disturbed(options: &Options, hands: &mut Hands) -> Result<Outcome> {
    let steps = options.steps_per_fault * options.faults as u64 + 30;
    let plan = fault::schedule(
        options.seed,
        options.faults,
        &options.kinds,
        options.agents,
        steps,
    )?;
    let small = Small {
        precision: "fp64",
        steps,
        save_every: 20,
        ..Small::default()
    };
    let spec = small.pretraining(hands.cluster.dir());
    let storage = format!("storage=s3://{}/jobs", s3::BUCKET);
    let ranks = format!("resources.ranks={{min: 1, max: {}}}", options.agents);
    let submit = |cluster: &Cluster| cluster.submit_with(&spec, &[&storage, &ranks]);
    let calm = submit(&hands.cluster)?;
    hands.cluster.succeed(&calm).await?;
    let expected = weights::export(&hands.cluster, &calm, PHASE)?;
    let calm = Ledger::read(hands.cluster.dir(), options.agents, &calm)?;

    let job = submit(&hands.cluster)?;
    let mut ledger = Ledger::new(hands.cluster.dir(), options.agents, &job);
    let (faults, missed) = storm(hands, &job, plan, &mut ledger).await?;
    let found = weights::export(&hands.cluster, &job, PHASE)?;
    let difference = weights::difference(&expected, &found)?;
    ledger.refresh()?;
    let failures = failures(&hands.cluster.events(&job).await?);
    let costs = account::costs(&faults, &ledger, &failures);
    let mut broken: Vec<String> = costs.iter().filter_map(Cost::broken).collect();
    let mut worlds: Vec<usize> = ledger.worlds().into_values().collect();
    let changed = worlds
        .iter()
        .chain(calm.worlds().values())
        .any(|world| *world != options.agents);
    let allowed = if changed { TOLERANCE } else { 0.0 };
    // A difference that is not a number is one.
    if difference.0.is_nan() || difference.0 > allowed {
        broken.push(format!("{} differs by {:e}", difference.1, difference.0));
    }
    worlds.dedup();
    Ok(Outcome {
        costs,
        missed,
        difference,
        worlds,
        broken,
    })
}

/// Lets the faults loose and waits for the job's end; the faults that hit with their times, and how many hit nobody.
async fn storm(
    hands: &mut Hands,
    job: &str,
    plan: Vec<Fault>,
    ledger: &mut Ledger,
) -> Result<(Vec<(f64, Fault)>, usize)> {
    let mut plan = plan.into_iter().peekable();
    let (mut done, mut missed) = (Vec::new(), 0);
    let mut open: Vec<(Instant, Remedy)> = Vec::new();
    let (mut due, mut seen, mut moved) = (None, 0, Instant::now());
    loop {
        ledger.refresh()?;
        if ledger.entries().len() != seen {
            (seen, moved) = (ledger.entries().len(), Instant::now());
        }
        if let Some(index) = open.iter().position(|(until, _)| *until <= Instant::now()) {
            hands.mend(open.swap_remove(index).1).await?;
            moved = Instant::now();
        }
        let ready =
            |fault: &Fault| ledger.step() >= fault.step.max(1) && (fault.hot || open.is_empty());
        match (plan.peek(), due) {
            (Some(fault), None) if ready(fault) => due = Some(Instant::now() + fault.pause),
            (Some(_), Some(at)) if at <= Instant::now() => {
                due = None;
                let Some(fault) = plan.next() else { continue };
                match hands.harm(&fault)? {
                    Some(remedy) => {
                        open.push((Instant::now() + fault.lasts, remedy));
                        done.push((clock::unix_millis(clock::now()) as f64 / 1000.0, fault));
                    }
                    None => missed += 1,
                }
            }
            (None, _) if open.is_empty() => {
                if let Some(state) = hands.cluster.state(job).await {
                    match state {
                        v1::JobState::Succeeded => return Ok((done, missed)),
                        v1::JobState::Failed | v1::JobState::Cancelled => {
                            bail!("the job failed\n{}", hands.cluster.story(job));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if open.is_empty() && moved.elapsed() > HUNG {
            bail!("hung\n{}", hands.cluster.story(job));
        }
        tokio::time::sleep(TICK).await;
    }
}

fn failures(events: &[v1::Event]) -> Vec<Failure> {
    let failed = |event: &&v1::Event| event.kind == "attempt_failed";
    let read = |event: &v1::Event| {
        let at = event.at?;
        Some(Failure {
            at: at.seconds as f64 + f64::from(at.nanos) / 1e9,
            attempt: event.attempt,
        })
    };
    events.iter().filter(failed).filter_map(read).collect()
}

impl Outcome {
    /// Everything, for people.
    ///
    /// # Errors
    /// The promises that were not kept.
    pub fn print(&self, options: &Options) -> Result<()> {
        for cost in &self.costs {
            println!("{cost}");
        }
        println!("\n{}", account::table(&self.costs));
        println!(
            "faults {}, missed {}, hung 0, worlds {:?}, largest difference {:e} ({})",
            self.costs.len(),
            self.missed,
            self.worlds,
            self.difference.0,
            self.difference.1
        );
        ensure!(
            self.broken.is_empty(),
            "broken promises: {}\n{}",
            self.broken.join("; "),
            options.replay()
        );
        Ok(())
    }
}

impl Options {
    /// The command that does the same again.
    pub fn replay(&self) -> String {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        format!(
            "replay: chaos --seed {} --faults {} --agents {} --steps-per-fault {}{} --kinds {}",
            self.seed,
            self.faults,
            self.agents,
            self.steps_per_fault,
            if self.namespaces { " --namespaces" } else { "" },
            kinds.join(",")
        )
    }
}

/// Runs and prints; what fails ends with the command that does it again.
///
/// # Errors
/// As [`run`] and [`Outcome::print`].
pub async fn main(options: &Options) -> Result<()> {
    println!("{}", options.replay());
    let outcome = run(options).await.with_context(|| options.replay())?;
    outcome.print(options)
}
