//! `version`, `context`.

use std::io::Write;
use std::path::PathBuf;

use diptych_proto::{PROTOCOL, v1};

use crate::client::Client;
use crate::command::ContextChange;
use crate::context::{Config, Context, Server};
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::view::cluster::{ClientVersion, ContextList, ContextView, ServerVersion, Versions};

pub(super) async fn version<W: Write>(
    server: Option<&Server>,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let client = || ClientVersion {
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL,
    };
    let Some(server) = server else {
        return out.print(&Versions {
            client: client(),
            server: None,
        });
    };
    let remote = Client::new(server)?;
    match remote
        .retry(|| async { remote.system().version(v1::VersionRequest {}).await })
        .await
    {
        Ok(answer) => {
            let v1::VersionResponse {
                version,
                protocol,
                oldest_protocol,
            } = answer;
            let server = ServerVersion {
                url: server.to_string(),
                version,
                protocol,
                oldest_protocol,
            };
            out.print(&Versions {
                client: client(),
                server: Some(server),
            })
        }
        Err(failure) => {
            // What is known is worth printing.
            out.print(&Versions {
                client: client(),
                server: None,
            })?;
            Err(failure)
        }
    }
}

pub(super) fn contexts<W: Write>(
    path: Option<PathBuf>,
    change: ContextChange,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let mut config = Config::read(path.as_deref())?;
    let name = match change {
        ContextChange::List => return out.print(&ContextList(config.views())),
        ContextChange::Use(name) => {
            config.server_of(&name)?;
            config.current = Some(name.clone());
            name
        }
        ContextChange::Set(name, server) => {
            config.contexts.insert(name.clone(), Context { server });
            // The first one is the one to use.
            config.current.get_or_insert_with(|| name.clone());
            name
        }
    };
    let path = path
        .ok_or_else(|| Failure::new(Code::Usage, "HOME is not set: name the file with --config"))?;
    config.write(&path)?;
    let current = config.current.as_ref() == Some(&name);
    out.print(&ContextView {
        server: config.server_of(&name)?.to_string(),
        name: name.to_string(),
        current,
    })
}
