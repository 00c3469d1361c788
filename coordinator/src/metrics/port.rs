//! What the operations port says of a coordinator.

use std::sync::OnceLock;

use diptych_common::clock;
use diptych_common::operations::{Family, Watched};
use diptych_proto::PROTOCOL;

use super::gauges;
use crate::core::UnixMs;
use crate::driver::Handle;
use crate::traces::Counts;

/// What the operations port says of a coordinator: that it starts, until it is opened.
#[derive(Debug, Default)]
pub struct Port(OnceLock<Handle>);

impl Port {
    /// The database is open, the state is there, and requests are taken.
    pub fn open(&self, handle: Handle) {
        // A process opens it once.
        let _ = self.0.set(handle);
    }
}

#[async_trait::async_trait]
impl Watched for Port {
    async fn unready(&self) -> Option<String> {
        let Some(handle) = self.0.get() else {
            return Some("the database is being opened".to_owned());
        };
        let answer = handle.read(|_, _| ()).await;
        answer.err().map(|error| error.to_string())
    }

    async fn measured(&self) -> Result<Vec<Family>, String> {
        let labels = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("protocol", PROTOCOL.to_string()),
        ];
        let help = "1, labelled with what runs here";
        let mut families = vec![Family::gauges("diptych_build_info", help, [(labels, 1.0)])];
        let Some(handle) = self.0.get() else {
            return Ok(families);
        };
        let wall = UnixMs::new(clock::unix_millis(clock::now()));
        let looked = handle.read(move |state, now| (gauges::families(state, wall), now));
        let (gauges, now) = looked.await.map_err(|error| error.to_string())?;
        families.extend(gauges);
        families.extend(handle.measured().lock().families(now));
        families.push(handle.calls().family());
        families.extend(handle.traced().map(Counts::family));
        Ok(families)
    }
}
