//! `worker top`.

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use diptych_common::clock;
use diptych_proto::v1;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;

use super::unless_interrupted;
use crate::client::Client;
use crate::client::backoff::Backoff;
use crate::client::follow::PATIENCE;
use crate::failure::Failure;
use crate::output::{Format, Output as _, Printer};
use crate::view::top::Top;

/// How often the table is renewed.
const RENEW: Duration = Duration::from_secs(1);

/// Prints one table, or keeps one up to date on a terminal.
pub(super) async fn top<W: Write>(
    client: &Client,
    once: bool,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let live = !once && out.format() == Format::Table && std::io::stdout().is_terminal();
    if live {
        return unless_interrupted(keep_up(client), "left; nothing was changed").await;
    }
    let answer = client
        .retry(|| async { client.workers().list(v1::ListWorkersRequest {}).await })
        .await?;
    out.print(&Top::from(answer))
}

/// Draws the table again and again. A coordinator that is away leaves the last one on the screen, and a line that says so.
async fn keep_up(client: &Client) -> Result<(), Failure> {
    let style =
        ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let screen =
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_style(style);
    let mut ticks = tokio::time::interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut backoff = Backoff::new(PATIENCE);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        let answer = client.once(async { client.workers().list(v1::ListWorkersRequest {}).await });
        match answer.await {
            Ok(answer) => {
                backoff.reset();
                last = picture(&Top::from(answer))?;
                screen.set_message(last.clone());
            }
            Err(failure) if failure.is_transient() && backoff.next().is_some() => {
                screen.set_message(format!("{last}{}", failure.message));
            }
            Err(failure) => {
                screen.abandon();
                return Err(failure);
            }
        }
    }
}

fn picture(top: &Top) -> Result<String, Failure> {
    let mut table = Vec::new();
    top.table(&mut table)?;
    let at = humantime::format_rfc3339_seconds(clock::now());
    let table = String::from_utf8_lossy(&table);
    Ok(format!("{at}  {}\n\n{table}", top.headline()))
}
