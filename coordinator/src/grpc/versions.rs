//! Callers that are too old or too new are told so, in place of an answer that they would not understand.

use std::pin::Pin;
use std::task::{Context, Poll};

use diptych_common::version::Version;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::USER_AGENT;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

/// How our command line names itself, before its version.
const PRODUCT: &str = "diptych/";
/// Who asks for this may be of any version: it tells them which this is.
const ALWAYS: &str = "/diptych.v1.SystemService/";

/// Refuses callers of versions that do not meet.
#[derive(Debug, Clone, Copy)]
pub struct Versions;

/// A service behind it.
#[derive(Debug, Clone)]
pub struct Meeting<S>(S);

/// Why a caller is refused, if it is. Programs that are not ours, and say nothing of their version, are taken at their
/// word that they know the protocol.
fn refusal(path: &str, headers: &HeaderMap, ours: Version) -> Option<Status> {
    let agent = headers.get(USER_AGENT)?.to_str().ok()?;
    let version = agent.strip_prefix(PRODUCT)?.split(' ').next()?;
    let theirs: Version = version.parse().ok()?;
    if path.starts_with(ALWAYS) {
        return None;
    }
    let met = ours.meets("this `diptych`", theirs);
    met.err()
        .map(|apart| Status::failed_precondition(apart.to_string()))
}

impl<S> Layer<S> for Versions {
    type Service = Meeting<S>;

    fn layer(&self, service: S) -> Meeting<S> {
        Meeting(service)
    }
}

impl<S, B> Service<Request<B>> for Meeting<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match refusal(request.uri().path(), request.headers(), Version::own()) {
            None => Box::pin(self.0.call(request)),
            Some(status) => {
                let answer = status.into_http();
                Box::pin(async move { Ok(answer) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_callers_of_other_times_are_refused() {
        const SUBMIT: &str = "/diptych.v1.JobService/Submit";
        let cases = [
            (SUBMIT, Some("diptych/0.2.0 tonic/0.14.0"), true),
            (SUBMIT, Some("diptych/0.3.9 tonic/0.14.0"), true),
            (SUBMIT, Some("diptych/0.4.0 tonic/0.14.0"), false),
            (SUBMIT, Some("diptych/0.0.9"), false),
            (
                "/diptych.v1.SystemService/Version",
                Some("diptych/9.0.0"),
                true,
            ),
            (SUBMIT, Some("grpcurl/1.9.1 grpc-go/1.61.0"), true),
            (SUBMIT, Some("diptych/main"), true),
            (SUBMIT, None, true),
        ];
        for (path, agent, served) in cases {
            let mut headers = HeaderMap::new();
            if let Some(agent) = agent {
                headers.insert(USER_AGENT, agent.parse().unwrap());
            }
            let refused = refusal(path, &headers, "0.2.5".parse().unwrap());
            assert_eq!(refused.is_none(), served, "{path} {agent:?}");
            if let Some(status) = refused {
                assert!(status.message().contains("0.2.5"), "{status}");
            }
        }
    }
}
