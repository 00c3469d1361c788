//! A gang on this machine, one process per rank. The parent starts this program again once per rank with the same
//! arguments; a rank prints its endpoint, reads its [`Invitation`], and then runs the measurement. What rank 0 prints
//! after that is the parent's output.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_common::ids::{Attempt, Rank};
use serde::{Deserialize, Serialize};

use tch::Device;

use crate::collective::nccl::{self, Id, Nccl, Rendezvous};
use crate::collective::{Gang, tcp};
use crate::device::{DeviceChoice, ask_driver, cuda};

/// Time for all ranks to find each other.
const CONNECT: Duration = Duration::from_secs(60);

/// Arguments of a bench that runs on several ranks.
#[derive(Debug, clap::Args)]
pub struct GangArgs {
    /// Number of ranks, each a process with one torch thread.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub world: u32,
    /// Where the ranks compute: `cpu`, `cuda` (a GPU for each, or one GPU for many) or `cuda:N`.
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    pub device: DeviceChoice,
    /// This process is a rank of a gang that its parent started.
    #[arg(long, hide = true)]
    as_rank: Option<u32>,
}

/// What a rank is told once all ranks listen.
#[derive(Serialize, Deserialize)]
struct Invitation {
    secret: [u8; 32],
    peers: Vec<String>,
    /// Rank 0's, on GPUs.
    nccl_id: Vec<u8>,
}

/// What a rank says first.
#[derive(Serialize, Deserialize)]
struct Greeting {
    endpoint: String,
    nccl_id: Vec<u8>,
}

/// A started rank; it does not outlive the parent's interest in it.
struct Process {
    rank: u32,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// Runs `body` on every rank and passes on what rank 0 prints.
///
/// # Errors
/// A rank that does not start, does not connect, or fails.
pub(super) fn on_ranks(
    args: &GangArgs,
    body: impl FnOnce(&Gang, Device) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match args.as_rank {
        Some(rank) => {
            let device = place(args.device, rank)?;
            body(&join(rank, args.world, device)?, device)
        }
        None => lead(args.world, args.device),
    }
}

/// A GPU for each rank as far as they go, where none is named.
fn place(choice: DeviceChoice, rank: u32) -> anyhow::Result<Device> {
    let choice = match choice {
        DeviceChoice::Cuda(0) => DeviceChoice::Cuda(rank % cuda::load()?.devices.max(1)),
        other => other,
    };
    Ok(choice.open()?)
}

fn join(rank: u32, world: u32, device: Device) -> anyhow::Result<Gang> {
    tch::set_num_threads(1);
    let listener = tcp::Listener::bind("127.0.0.1:0")?;
    let nccl = match device {
        Device::Cuda(index) => Some((Nccl::open()?, index)),
        _ => None,
    };
    let id = match &nccl {
        Some((nccl, _)) if rank == 0 => Id::new(nccl)?.bytes().to_vec(),
        _ => Vec::new(),
    };
    let greeting = Greeting {
        endpoint: listener.endpoint(),
        nccl_id: id,
    };
    println!("{}", serde_json::to_string(&greeting)?);
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .context("read the invitation")?;
    let invitation: Invitation = serde_json::from_str(&line).context("parse the invitation")?;
    let identity = tcp::Identity {
        job: "bench-000000".parse()?,
        attempt: Attempt::new(1),
        rank: Rank::new(rank),
        world,
        secret: tcp::Secret::from(invitation.secret),
    };
    let (peers, deadline) = (invitation.peers, Instant::now() + CONNECT);
    let Some((nccl, index)) = nccl else {
        return Ok(listener.connect(identity, &peers, deadline)?);
    };
    let rendezvous = Rendezvous {
        listener,
        identity,
        peers: &peers,
        id: &Id::try_from(invitation.nccl_id.as_slice())?,
        deadline,
    };
    Ok(nccl::connect(&nccl, index, rendezvous)?)
}

fn lead(world: u32, device: DeviceChoice) -> anyhow::Result<()> {
    let mut ranks: Vec<Process> = (0..world)
        .map(|rank| Process::start(rank, device))
        .collect::<anyhow::Result<_>>()?;
    let greetings: Vec<Greeting> = ranks
        .iter_mut()
        .map(Process::greeting)
        .collect::<anyhow::Result<_>>()?;
    let nccl_id = greetings.first().map(|first| first.nccl_id.clone());
    let invitation = serde_json::to_string(&Invitation {
        secret: rand::random(),
        peers: greetings
            .into_iter()
            .map(|greeting| greeting.endpoint)
            .collect(),
        nccl_id: nccl_id.unwrap_or_default(),
    })?;
    for rank in &mut ranks {
        writeln!(rank.stdin, "{invitation}")
            .with_context(|| format!("invite rank {}", rank.rank))?;
    }
    io::copy(&mut ranks[0].stdout, &mut io::stdout()).context("read the report of rank 0")?;
    for rank in &mut ranks {
        let status = rank.child.wait()?;
        anyhow::ensure!(status.success(), "rank {} failed: {status}", rank.rank);
    }
    Ok(())
}

// === impl Process ===

impl Process {
    fn start(rank: u32, device: DeviceChoice) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        if device.is_cuda() && std::env::var_os("NCCL_HOSTID").is_none() {
            // NCCL refuses two ranks of one machine on one GPU; so they are of two machines, and talk over sockets.
            let shared = ask_driver().is_ok_and(|driver| driver.devices <= rank);
            if shared || device != DeviceChoice::Cuda(0) {
                command.env("NCCL_HOSTID", format!("rank-{rank}"));
            }
        }
        if std::env::var_os("NCCL_DEBUG_FILE").is_none() {
            // Standard output is for greetings and figures.
            command.env("NCCL_DEBUG_FILE", "/dev/stderr");
        }
        let mut child = command
            .args(std::env::args_os().skip(1))
            .args(["--as-rank", &rank.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start rank {rank}"))?;
        let (stdin, stdout) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .context("pipes of a rank")?;
        Ok(Self {
            rank,
            child,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    fn greeting(&mut self) -> anyhow::Result<Greeting> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        anyhow::ensure!(
            !line.is_empty(),
            "rank {} ended before it listened",
            self.rank
        );
        serde_json::from_str(&line).with_context(|| format!("greeting of rank {}", self.rank))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has already ended cannot be killed, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
