//! A trace of every job, for those who collect traces: made of what was committed, sent when each span has ended.

mod ids; // names that every coordinator gives alike
mod span; // what has ended, as a collector wants to know it
mod run; // what is open of one job
mod fold; // of all of them: a fold over committed batches
mod tracer; // the fold, its way back from the history, and where its spans go
mod otlp; // spans as OTLP has them
mod exporter; // a bounded queue, and the collector at its end

pub use exporter::{Collector, Counts, Exporter, Outlet};
pub use fold::Traces;
pub use ids::{SpanId, TraceId};
pub use span::{Span, SpanEvent, Value};
pub use tracer::Tracer;
