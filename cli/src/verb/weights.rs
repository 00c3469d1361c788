//! `checkpoint inspect`: what a file of weights holds, by its tensors.

use std::io::{self, Write};

use diptych_common::checkpoint::{ExportInfo, NetworkDescription};
use diptych_common::import::{self, ImportError, Imported, Scheme};
use diptych_common::spec::{EncoderSpec, flow};
use diptych_common::store;
use diptych_common::units::Bytes;
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::output::table::properties;
use crate::output::{Output, Printer};

/// What was found.
#[derive(Debug, Serialize)]
struct Weights {
    url: String,
    /// Whose names its tensors have.
    scheme: Scheme,
    tensors: usize,
    /// Numbers in them.
    elements: u64,
    bytes: u64,
    /// The network, where the tensors form one that is known here. Classes without names are numbered.
    network: Option<NetworkDescription>,
    /// What an export says of itself.
    export: Option<ExportInfo>,
}

pub(super) async fn inspect<W: Write>(place: &str, out: &mut Printer<W>) -> Result<(), Failure> {
    let url = store::url_of(place)?;
    let imported = import::open(&url).await.map_err(|error| match error {
        ImportError::Store(error) => Failure::from(error),
        other => Failure::new(Code::Failed, format!("{place}: {other}")),
    })?;
    out.print(&Weights::of(url, imported))
}

impl Weights {
    fn of(url: String, imported: Imported) -> Self {
        let elements = |shape: &Vec<u64>| shape.iter().product::<u64>();
        let tensors = imported.tensors.values();
        Self {
            url,
            scheme: imported.scheme,
            tensors: imported.tensors.len(),
            elements: tensors.clone().map(|tensor| elements(&tensor.shape)).sum(),
            bytes: tensors.map(|tensor| tensor.bytes.len() as u64).sum(),
            network: imported.network(),
            export: imported.info,
        }
    }
}

impl Output for Weights {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let network = self.network.as_ref();
        let encoder = network.map(|network| words(&network.encoder));
        let unknown = || "no whole network that is known here".to_owned();
        let head = network.and_then(|network| network.head.as_ref()).map(flow);
        let classifier = network.and_then(|network| network.classifier.as_ref());
        let classes = classifier.map(|classifier| match classifier.head_layer {
            0 => classifier.classes.len().to_string(),
            layer => format!("{}, on layer {layer} of the head", classifier.classes.len()),
        });
        let trained = self
            .export
            .as_ref()
            .map(|info| format!("job {}, phase {}, step {}", info.job, info.phase, info.step));
        properties(
            out,
            &[
                ("holds", Some(self.scheme.to_string())),
                ("trained by", trained),
                ("encoder", Some(encoder.unwrap_or_else(unknown))),
                ("head", head),
                ("classes", classes),
                ("tensors", Some(self.tensors.to_string())),
                ("numbers", Some(self.elements.to_string())),
                ("size", Some(Bytes::new(self.bytes).to_string())),
            ],
        )
    }
}

/// The encoder as a spec may say it: of some depths the first shortcut is no choice.
fn words(encoder: &EncoderSpec) -> String {
    let mut fields = serde_json::json!(encoder);
    if let Some(fields) = fields
        .as_object_mut()
        .filter(|_| encoder.depth.bottleneck())
    {
        fields.remove("basic_shortcut");
    }
    flow(&fields)
}
