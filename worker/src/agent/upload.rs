//! Log lines to the coordinator, whenever there is one.

use std::time::Duration;

use diptych_proto::v1::agent_service_client::AgentServiceClient;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::logs::LogBook;

/// Lines wait this long for company.
const BATCHING: Duration = Duration::from_millis(200);
/// After a failed upload.
const PAUSE: Duration = Duration::from_secs(1);
/// An upload that takes longer is given up and sent again.
const LIMIT: Duration = Duration::from_secs(30);

/// Uploads until the agent drops the other end of `link`, which holds the client while there is a session.
pub async fn upload(book: LogBook, mut link: watch::Receiver<Option<AgentServiceClient<Channel>>>) {
    loop {
        let Ok(client) = link
            .wait_for(Option::is_some)
            .await
            .map(|client| client.clone())
        else {
            return;
        };
        let Some(mut client) = client else { continue };
        let pause = match pass(&book, &mut client).await {
            Ok(()) => BATCHING,
            Err(status) => {
                tracing::debug!(%status, "logs not uploaded; trying again");
                PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// One upload for every rank that has new lines. Rows of one rank go in one call: its receipt counts that rank's lines.
async fn pass(
    book: &LogBook,
    client: &mut AgentServiceClient<Channel>,
) -> Result<(), tonic::Status> {
    for batch in book.batches() {
        let mut request = tonic::Request::new(futures::stream::iter([batch.chunk.clone()]));
        request.set_timeout(LIMIT);
        match client.upload_logs(request).await {
            Ok(receipt) => book.received(&batch, receipt.into_inner().lines),
            Err(status) if status.code() == tonic::Code::NotFound => {
                tracing::info!(job = %batch.key.job, attempt = %batch.key.attempt, rank = %batch.key.rank, "the coordinator does not know the job: its log stays on this disk");
                book.give_up(&batch);
            }
            Err(status) => return Err(status),
        }
    }
    Ok(())
}
