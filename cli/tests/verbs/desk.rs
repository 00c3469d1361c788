//! A coordinator's desk in this process: real sockets, and answers that a test lays out. It shows what a cluster of
//! simulated trainers cannot: ranks that fail, wait and are slow.

use std::sync::{Arc, Mutex};

use diptych_proto::v1;
use diptych_proto::v1::job_service_server::{JobService, JobServiceServer};
use diptych_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What the desk answers, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Papers {
    /// Lists of workers, one a call; the last one stays.
    pub(crate) workers: Vec<Vec<v1::Worker>>,
    /// What a watch sees, in turn.
    pub(crate) watched: Vec<v1::Job>,
    pub(crate) events: Vec<v1::Event>,
    pub(crate) explanation: v1::Explanation,
    pub(crate) scaled: Vec<v1::ScaleRequest>,
    pub(crate) cordons: Vec<v1::CordonRequest>,
    pub(crate) drains: Vec<v1::DrainRequest>,
}

#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) url: String,
    papers: Arc<Mutex<Papers>>,
}

impl Desk {
    pub(crate) async fn open(papers: Papers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let desk = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            papers: Arc::new(Mutex::new(papers)),
        };
        let server = Server::builder()
            .add_service(JobServiceServer::new(desk.clone()))
            .add_service(WorkerServiceServer::new(desk.clone()));
        // It ends with the test's runtime.
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        desk
    }

    /// Looks at the papers.
    pub(crate) fn papers<T>(&self, look: impl FnOnce(&mut Papers) -> T) -> T {
        look(&mut self.papers.lock().unwrap())
    }

    /// A worker as the next list has it.
    fn worker(&self, name: &str) -> Result<v1::Worker, Status> {
        let of_now = self.papers(|papers| papers.workers.first().cloned());
        of_now
            .into_iter()
            .flatten()
            .find(|worker| worker.worker == name)
            .ok_or_else(|| Status::not_found(format!("no worker {name}")))
    }
}

type Answers<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

fn stream<T>(items: Vec<T>) -> Response<Answers<T>> {
    let items: Vec<_> = items.into_iter().map(Ok).collect();
    Response::new(tokio_stream::iter(items))
}

fn elsewhere<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the real coordinator is asked this"))
}

#[tonic::async_trait]
impl WorkerService for Desk {
    async fn list(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.papers(|papers| match papers.workers.len() {
            0 => Vec::new(),
            1 => papers.workers[0].clone(),
            _ => papers.workers.remove(0),
        });
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn cordon(
        &self,
        request: Request<v1::CordonRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let request = request.into_inner();
        let mut worker = self.worker(&request.worker)?;
        worker.cordoned = request.cordoned;
        worker.cordon_reason = request.reason.clone();
        self.papers(|papers| papers.cordons.push(request));
        Ok(Response::new(worker))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let request = request.into_inner();
        let mut worker = self.worker(&request.worker)?;
        (worker.cordoned, worker.draining) = (true, true);
        self.papers(|papers| papers.drains.push(request));
        Ok(Response::new(worker))
    }
}

#[tonic::async_trait]
impl JobService for Desk {
    type WatchStream = Answers<v1::Job>;
    type EventsStream = Answers<v1::Event>;
    type LogsStream = Answers<v1::LogLine>;
    type MetricsStream = Answers<v1::MetricPoint>;

    async fn watch(
        &self,
        _: Request<v1::JobRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(stream(self.papers(|papers| papers.watched.clone())))
    }

    async fn events(
        &self,
        _: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        Ok(stream(self.papers(|papers| papers.events.clone())))
    }

    async fn explain(
        &self,
        _: Request<v1::JobRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        Ok(Response::new(
            self.papers(|papers| papers.explanation.clone()),
        ))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::Job>, Status> {
        let request = request.into_inner();
        if request.max.is_some_and(|max| max > 64) {
            return Err(Status::failed_precondition(
                "phase pretrain has 64 lanes: at most 64 ranks",
            ));
        }
        let mut job = self
            .papers(|papers| papers.watched.first().cloned())
            .ok_or_else(|| Status::not_found("no such job"))?;
        for phase in &mut job.phases {
            phase.ranks_min = request.min.unwrap_or(phase.ranks_min);
            phase.ranks_max = request.max.unwrap_or(phase.ranks_max);
        }
        self.papers(|papers| papers.scaled.push(request));
        Ok(Response::new(job))
    }

    async fn get(&self, _: Request<v1::JobRequest>) -> Result<Response<v1::Job>, Status> {
        let job = self.papers(|papers| papers.watched.last().cloned());
        job.map(Response::new)
            .ok_or_else(|| Status::not_found("no such job"))
    }

    async fn submit(
        &self,
        _: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        elsewhere()
    }

    async fn list(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        elsewhere()
    }

    async fn logs(
        &self,
        _: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        elsewhere()
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::Job>, Status> {
        elsewhere()
    }

    async fn retry(&self, _: Request<v1::JobRequest>) -> Result<Response<v1::Job>, Status> {
        elsewhere()
    }

    async fn delete(
        &self,
        _: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        elsewhere()
    }

    async fn metrics(
        &self,
        _: Request<v1::MetricsRequest>,
    ) -> Result<Response<Self::MetricsStream>, Status> {
        elsewhere()
    }
}
