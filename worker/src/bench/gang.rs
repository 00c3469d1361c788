//! A gang on this machine, one process per rank. The parent starts this program again once per rank with the same
//! arguments; a rank prints its endpoint, reads its [`Invitation`], and then runs the measurement. What rank 0 prints
//! after that is the parent's output.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_common::ids::{Attempt, Rank};
use serde::{Deserialize, Serialize};

use crate::collective::{Gang, tcp};

/// Time for all ranks to find each other.
const CONNECT: Duration = Duration::from_secs(60);

/// Arguments of a bench that runs on several ranks.
#[derive(Debug, clap::Args)]
pub struct GangArgs {
    /// Number of ranks, each a process with one torch thread.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub world: u32,
    /// This process is a rank of a gang that its parent started.
    #[arg(long, hide = true)]
    as_rank: Option<u32>,
}

/// What a rank is told once all ranks listen.
#[derive(Serialize, Deserialize)]
struct Invitation {
    secret: [u8; 32],
    peers: Vec<String>,
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
    body: impl FnOnce(&Gang) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match args.as_rank {
        Some(rank) => body(&join(rank, args.world)?),
        None => lead(args.world),
    }
}

fn join(rank: u32, world: u32) -> anyhow::Result<Gang> {
    tch::set_num_threads(1);
    let listener = tcp::Listener::bind("127.0.0.1:0")?;
    println!("{}", listener.endpoint());
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
    Ok(listener.connect(identity, &invitation.peers, Instant::now() + CONNECT)?)
}

fn lead(world: u32) -> anyhow::Result<()> {
    let mut ranks: Vec<Process> = (0..world)
        .map(Process::start)
        .collect::<anyhow::Result<_>>()?;
    let peers = ranks
        .iter_mut()
        .map(Process::line)
        .collect::<anyhow::Result<_>>()?;
    let invitation = serde_json::to_string(&Invitation {
        secret: rand::random(),
        peers,
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
    fn start(rank: u32) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
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

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        anyhow::ensure!(
            !line.is_empty(),
            "rank {} ended before it listened",
            self.rank
        );
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has already ended cannot be killed, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
