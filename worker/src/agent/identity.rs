//! Who the agent is, what its machine offers, and the directory that it owns.

use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;

use diptych_common::ids::WorkerId;
use diptych_common::units::Bytes;
use nix::fcntl::{Flock, FlockArg};
use rand::Rng as _;

/// Why an agent cannot know itself.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The data directory cannot be used.
    #[error("data directory {dir}: {error}")]
    Directory {
        /// Its path.
        dir: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Another agent has it.
    #[error(
        "data directory {dir} is in use by another worker: give this one its own --data-dir or --id"
    )]
    InUse {
        /// Its path.
        dir: String,
    },
    /// The stored id was changed by hand.
    #[error("{path}: {problem}; delete the file to get a new id")]
    StoredId {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The agent's directory, locked for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    _lock: Flock<File>,
}

impl DataDir {
    /// Creates and locks a directory.
    ///
    /// # Errors
    /// When it cannot be made or written, or another agent has it.
    pub fn lock(dir: &Path) -> Result<Self, IdentityError> {
        let name = dir.display().to_string();
        let wrap = |error| IdentityError::Directory {
            dir: name.clone(),
            error,
        };
        fs::create_dir_all(dir).map_err(wrap)?;
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(wrap)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(IdentityError::InUse { dir: name }),
            Err((_, errno)) => Err(wrap(errno.into())),
        }
    }
}

/// The id of earlier runs in this directory, or a new one from the host's name.
///
/// # Errors
/// When the file cannot be read or written, or does not hold an id.
pub fn stable_id(dir: &Path, host: &str) -> Result<WorkerId, IdentityError> {
    let path = dir.join("worker-id");
    let wrap = |error| IdentityError::Directory {
        dir: dir.display().to_string(),
        error,
    };
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(
                |error: diptych_common::ids::NameError| IdentityError::StoredId {
                    path: path.display().to_string(),
                    problem: error.to_string(),
                },
            ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = new_id(host, rand::rng().random());
            fs::write(&path, format!("{id}\n")).map_err(wrap)?;
            Ok(id)
        }
        Err(error) => Err(wrap(error)),
    }
}

/// `{host}-{8 hex}`, with whatever is not allowed in an id made a dash.
fn new_id(host: &str, random: u32) -> WorkerId {
    let short: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .take(50)
        .collect();
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let text: String = short.chars().map(legal).collect();
    let text = text.trim_matches('-');
    let stem = if text.is_empty() { "worker" } else { text };
    format!("{stem}-{random:08x}")
        .parse()
        .expect("letters, digits and dashes, starting with one of the former")
}

/// The machine's name, for people.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}

/// What a CPU slot may use of the machine's memory: an even share of the smaller of the machine and its cgroup.
/// `None` where the system does not say.
pub fn memory_per_slot(slots: u32) -> Option<Bytes> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)?;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Some(Bytes::new(
        limit.map_or(total, |limit: u64| limit.min(total)) / u64::from(slots.max(1)),
    ))
}

/// The address under which peers reach this machine: loopback if the coordinator is there, else the local address of
/// the route to it. `None` where the coordinator's name does not resolve yet.
pub fn address_towards(host: &str, port: u16) -> Option<IpAddr> {
    let target = (host, port).to_socket_addrs().ok()?.next()?;
    if target.ip().is_loopback() {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    // Connecting a datagram socket sends nothing: it only asks for the route.
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_gives_a_legal_id() {
        for (host, expected) in [
            ("gpu-07.cluster.local", "gpu-07-000000ff"),
            ("Node_A", "node-a-000000ff"),
            ("---", "worker-000000ff"),
            ("", "worker-000000ff"),
            ("éa", "a-000000ff"),
        ] {
            assert_eq!(new_id(host, 255).as_str(), expected);
        }
        assert!(new_id(&"x".repeat(300), 1).as_str().len() <= 63);
    }

    #[test]
    fn the_id_outlives_the_process_and_the_directory_has_one_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = DataDir::lock(dir.path()).expect("free");
        assert!(matches!(
            DataDir::lock(dir.path()),
            Err(IdentityError::InUse { .. })
        ));
        drop(lock);
        drop(DataDir::lock(dir.path()).expect("free again"));
        let first = stable_id(dir.path(), "node").expect("written");
        assert_eq!(stable_id(dir.path(), "other").expect("read"), first);
        fs::write(dir.path().join("worker-id"), "No Id").expect("written");
        assert!(matches!(
            stable_id(dir.path(), "node"),
            Err(IdentityError::StoredId { .. })
        ));
    }

    #[test]
    fn a_loopback_coordinator_keeps_the_data_plane_on_loopback() {
        assert_eq!(
            address_towards("127.0.0.1", 7654),
            Some(Ipv4Addr::LOCALHOST.into())
        );
    }
}
