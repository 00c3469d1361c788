//! The worker: an agent that holds the lease, and one trainer per device that walks the data path.
//!
//! Read the modules in order: they are the path of a job through a worker.

pub mod config; // what an agent is told
pub mod agent; // control in: register, assignments, logs
pub mod trainer; // one process per device, driven by the agent
pub mod collective; // the substrate of gather and reduce
pub mod device; // the only door to what tch lacks
pub mod batch; // shard → decode → augment are in `images`; here views become tensors
pub mod encode; // ResNet, synchronised batch norm
pub mod project; // projection head, classifiers
pub mod gather; // all ranks' rows in one order
pub mod loss; // NT-Xent, cross-entropy, distillation
pub mod backward; // micro-batches
pub mod reduce; // gradient buckets
pub mod optim; // LARS, SGD, AdamW, schedule
pub mod checkpoint; // state out and in
pub mod tensorboard; // curves and pictures beside the checkpoints
pub mod phase; // pretrain, linear_eval, finetune, distill
pub mod infer; // an export at work
pub mod verify; // golden cases
pub mod doctor; // what a machine has and lacks
pub mod bench; // measurements
