//! `/healthz`, `/readyz` and `/metrics`, on a thread of their own: work that takes long never fails a probe.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::family::{self, Family};

/// What a process says of itself.
#[async_trait::async_trait]
pub trait Watched: Send + Sync + 'static {
    /// Why it cannot do its work yet, in words; `None` where it can.
    async fn unready(&self) -> Option<String>;

    /// What it measures, now.
    ///
    /// # Errors
    /// Why it cannot say, in words.
    async fn measured(&self) -> Result<Vec<Family>, String>;
}

/// The port, until it is dropped.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

/// How long the process's own threads may take for the least of tasks.
const ALIVE: Duration = Duration::from_secs(4);
/// How long it may take to say what it measures. Prometheus gives up after 10 s.
const SCRAPE: Duration = Duration::from_secs(8);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

struct Port {
    watched: Arc<dyn Watched>,
    /// Where the process does its work.
    work: Handle,
}

/// Listens, and answers from a thread of its own. To be called on the runtime that does the process's work, which
/// `/healthz` asks for a sign of life.
///
/// # Errors
/// The address cannot be listened on, or no thread can be started.
pub fn serve(listen: SocketAddr, watched: Arc<dyn Watched>) -> std::io::Result<Serving> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let work = Handle::current();
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Port { watched, work }));
    let (stop, stopped) = oneshot::channel();
    std::thread::Builder::new()
        .name("operations".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let ended = async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    axum::serve(listener, router).await
                };
                tokio::select! {
                    ended = ended => if let Err(error) = ended {
                        tracing::error!(%error, "the port for health and metrics is closed");
                    },
                    _ = stopped => {}
                }
            });
        })?;
    Ok(Serving {
        address,
        _stop: stop,
    })
}

async fn healthz(State(port): State<Arc<Port>>) -> Response {
    let sign = port.work.spawn(async {});
    match tokio::time::timeout(ALIVE, sign).await {
        Ok(Ok(())) => "alive\n".into_response(),
        Ok(Err(_)) | Err(_) => unavailable("the process does not get to its work"),
    }
}

async fn readyz(State(port): State<Arc<Port>>) -> Response {
    match tokio::time::timeout(ALIVE, port.watched.unready()).await {
        Ok(None) => "ready\n".into_response(),
        Ok(Some(why)) => unavailable(&why),
        Err(_) => unavailable("the process does not get to its work"),
    }
}

async fn metrics(State(port): State<Arc<Port>>) -> Response {
    let measured = match tokio::time::timeout(SCRAPE, port.watched.measured()).await {
        Ok(Ok(families)) => families,
        Ok(Err(why)) => return unavailable(&why),
        Err(_) => return unavailable("the process does not get to its work"),
    };
    match family::text(measured) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Process(Mutex<Option<String>>);

    #[async_trait::async_trait]
    impl Watched for Process {
        async fn unready(&self) -> Option<String> {
            self.0.lock().unwrap().clone()
        }

        async fn measured(&self) -> Result<Vec<Family>, String> {
            Ok(vec![Family::gauges("up", "Whether", [(Vec::new(), 1.0)])])
        }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_process_that_is_not_ready_says_why_and_is_alive() {
        let process = Arc::new(Process(Mutex::new(Some("still reading".to_owned()))));
        let serving = serve("127.0.0.1:0".parse().unwrap(), process.clone()).unwrap();
        let address = serving.address;
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("still reading\n"), "{answer}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        *process.0.lock().unwrap() = None;
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(answer.contains("up 1.0\n"), "{answer}");
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_address_in_use_is_refused_at_once() {
        let process = || Arc::new(Process(Mutex::new(None)));
        let first = serve("127.0.0.1:0".parse().unwrap(), process()).unwrap();
        let again = serve(first.address, process());
        assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
