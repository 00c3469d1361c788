//! How long answers take, by method.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use diptych_common::operations::{Family, Histogram};
use diptych_proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// Seconds of an answer.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Times of all methods that there are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallTimes(Arc<BTreeMap<String, Mutex<Histogram>>>);

/// Times what it is laid over. A stream is answered when it begins.
#[derive(Debug, Clone)]
pub struct Calls(CallTimes);

/// A service whose answers are timed.
#[derive(Debug, Clone)]
pub struct Timed<S> {
    service: S,
    times: CallTimes,
}

impl CallTimes {
    /// Nothing is timed yet. Only methods of this package are: whatever else a caller asks for makes no series.
    pub fn new() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
        let services = set.file.iter().flat_map(|file| {
            let package = file.package();
            file.service.iter().map(move |service| (package, service))
        });
        let paths = services.flat_map(|(package, service)| {
            let name = service.name();
            let path = move |method: &str| format!("/{package}.{name}/{method}");
            service.method.iter().map(move |method| path(method.name()))
        });
        let times = paths.map(|path| (path, Mutex::new(Histogram::new(SECONDS))));
        Self(Arc::new(times.collect()))
    }

    fn answered(&self, path: &str, since: Instant) {
        if let Some(times) = self.0.get(path) {
            let seconds = since.elapsed().as_secs_f64();
            // Counts are whole after every operation.
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            times.observe(seconds);
        }
    }

    /// The times, for a reader.
    pub(super) fn family(&self) -> Family {
        let called = self.0.iter().filter_map(|(path, times)| {
            let times = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let method = path.rsplit_once('.')?.1.to_owned();
            (times.count() > 0).then(|| (vec![("method", method)], times))
        });
        let help = "From a request to its answer, or to the beginning of a stream";
        Family::histograms("diptych_rpc_seconds", help, called)
    }
}

impl Default for CallTimes {
    fn default() -> Self {
        Self::new()
    }
}

impl Calls {
    /// Adds to these times.
    pub fn new(times: CallTimes) -> Self {
        Self(times)
    }
}

impl<S> Layer<S> for Calls {
    type Service = Timed<S>;

    fn layer(&self, service: S) -> Timed<S> {
        let times = self.0.clone();
        Timed { service, times }
    }
}

impl<S, B, A> Service<Request<B>> for Timed<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (path, times) = (request.uri().path().to_owned(), self.times.clone());
        let since = Instant::now();
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await;
            times.answered(&path, since);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_methods_that_there_are_make_a_series() {
        let times = CallTimes::new();
        let since = Instant::now();
        times.answered("/diptych.v1.JobService/Submit", since);
        times.answered("/diptych.v1.JobService/Submit2", since);
        times.answered("/", since);
        let family = times.family();
        let [(labels, _)] = family.series() else {
            panic!("{family:?}")
        };
        assert_eq!(labels, &[("method", "JobService/Submit".to_owned())]);
    }
}
