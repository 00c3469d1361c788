//! A network of its own for every agent, so that links between agents can be cut. Needs root and `ip`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A bridge, and a namespace per agent that hangs on it; removed when this is dropped.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    names: Vec<String>,
    subnet: String,
}

impl Network {
    /// Makes `agents` namespaces.
    ///
    /// # Errors
    /// Where `ip` is missing or does not let us.
    pub fn make(agents: usize) -> Result<Self> {
        let id = std::process::id();
        let mut network = Self {
            bridge: format!("dpt{id}"),
            names: Vec::new(),
            subnet: format!("10.{}.{}", 77 + id / 250 % 100, id % 250),
        };
        let bridge = network.bridge.clone();
        ip(&format!("link add {bridge} type bridge")).context(
            "cutting links between agents needs network namespaces, which root may make",
        )?;
        ip(&format!("addr add {}/24 dev {bridge}", network.host()))?;
        ip(&format!("link set {bridge} up"))?;
        for agent in 0..agents {
            let (name, outside) = (format!("{bridge}-{agent}"), format!("{bridge}v{agent}"));
            ip(&format!("netns add {name}"))?;
            network.names.push(name.clone());
            ip(&format!(
                "link add {outside} type veth peer name eth0 netns {name}"
            ))?;
            ip(&format!("link set {outside} master {bridge} up"))?;
            ip(&format!(
                "-n {name} addr add {}/24 dev eth0",
                network.address(agent)
            ))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(network)
    }

    /// The address under which agents reach this machine.
    pub fn host(&self) -> String {
        format!("{}.1", self.subnet)
    }

    /// The namespaces, in the order of agents.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn address(&self, agent: usize) -> String {
        format!("{}.{}", self.subnet, 10 + agent)
    }

    /// From now on nothing that one agent sends reaches the other.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        self.route("add", from, to)
    }

    /// Ends a cut.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn mend(&self, from: usize, to: usize) -> Result<()> {
        self.route("del", from, to)
    }

    fn route(&self, word: &str, from: usize, to: usize) -> Result<()> {
        let (name, address) = (&self.names[from], self.address(to));
        ip(&format!("-n {name} route {word} blackhole {address}/32"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A name that is taken or gone is no reason to leave the others.
        for name in &self.names {
            drop(ip(&format!("netns del {name}")));
        }
        drop(ip(&format!("link del {}", self.bridge)));
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("run ip")?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
