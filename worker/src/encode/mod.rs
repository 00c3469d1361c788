//! Views to features: ResNet with synchronised batch norm.

mod build; // named parameters and statistics, seeded initial values
mod mode; // training on groups, or running statistics
mod norm; // batch norm over all ranks
mod conv; // a convolution and its norm
mod pool; // max-pools of two programs, the pools of shortcuts
mod selective; // two streams and their mixing
mod resnet; // the encoder

pub use build::{Build, Parameter, Role, Statistic};
pub use mode::{Mode, TrainMode};
pub use norm::BatchNorm;
pub(crate) use norm::{DECAY, EPS};
pub use resnet::Encoder;
pub use selective::SelectiveKernel;
