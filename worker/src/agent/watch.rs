//! What those who watch the agent are told: whether it is registered, and what runs here. The coordinator measures the
//! training itself.

use std::sync::{Arc, Mutex, PoisonError};

use diptych_common::operations::{Family, Labels, Watched};
use diptych_proto::PROTOCOL;

/// What those who watch are told; the agent keeps it current. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Shown>>);

#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    registered: bool,
    trainers: usize,
}

impl Watch {
    /// As it is now.
    pub(super) fn shows(&self, registered: bool, trainers: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Shown {
            registered,
            trainers,
        };
    }

    fn shown(&self) -> Shown {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Watched for Watch {
    async fn unready(&self) -> Option<String> {
        let registered = self.shown().registered;
        (!registered).then(|| {
            "not registered with the coordinator: the log says what keeps it from that".to_owned()
        })
    }

    async fn measured(&self) -> Result<Vec<Family>, String> {
        let shown = self.shown();
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("protocol", PROTOCOL.to_string()),
        ];
        let one = |value: f64| [(Labels::new(), value)];
        Ok(vec![
            Family::gauges(
                "diptych_build_info",
                "1, labelled with what runs here",
                [(build, 1.0)],
            ),
            Family::gauges(
                "diptych_worker_registered",
                "1 while the worker is registered with the coordinator",
                one(f64::from(u8::from(shown.registered))),
            ),
            Family::gauges(
                "diptych_worker_trainers",
                "Trainers that run on the worker",
                one(shown.trainers as f64),
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_is_ready_while_it_is_registered() {
        let watch = Watch::default();
        assert!(
            watch
                .unready()
                .await
                .is_some_and(|why| why.contains("not registered"))
        );
        watch.shows(true, 2);
        assert_eq!(watch.unready().await, None);
        let families = watch.measured().await.expect("measured");
        let text = diptych_common::operations::family::text(families).expect("a page");
        assert!(text.contains("diptych_worker_registered 1.0\n"), "{text}");
        assert!(text.contains("diptych_worker_trainers 2.0\n"), "{text}");
        watch.shows(false, 2);
        assert!(watch.unready().await.is_some());
    }
}
