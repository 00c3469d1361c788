//! Versions, contexts.

use std::io::{self, Write};

use serde::Serialize;

use crate::output::Output;
use crate::output::table::{columns, properties};

/// Versions of both sides.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) client: ClientVersion,
    /// Absent with `--client`.
    pub(crate) server: Option<ServerVersion>,
}

/// This program.
#[derive(Debug, Serialize)]
pub(crate) struct ClientVersion {
    pub(crate) version: &'static str,
    pub(crate) protocol: u32,
}

/// The coordinator.
#[derive(Debug, Serialize)]
pub(crate) struct ServerVersion {
    pub(crate) url: String,
    pub(crate) version: String,
    pub(crate) protocol: u32,
    pub(crate) oldest_protocol: u32,
}

/// A named coordinator.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct ContextView {
    pub(crate) name: String,
    pub(crate) server: String,
    pub(crate) current: bool,
}

/// All named coordinators.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ContextList(pub(crate) Vec<ContextView>);

impl Output for Versions {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let client = format!(
            "{} (protocol {})",
            self.client.version, self.client.protocol
        );
        let server = self.server.as_ref().map(|server| {
            let ServerVersion {
                url,
                version,
                protocol,
                oldest_protocol,
            } = server;
            format!("{version} (protocol {protocol}, back to {oldest_protocol}) at {url}")
        });
        properties(out, &[("client", Some(client)), ("server", server)])
    }
}

impl Output for ContextView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}", self.name, self.server)
    }
}

impl Output for ContextList {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|context| {
            let mark = if context.current { "*" } else { "" };
            vec![
                mark.to_owned(),
                context.name.clone(),
                context.server.clone(),
            ]
        });
        columns(out, &["", "NAME", "SERVER"], rows)
    }
}
