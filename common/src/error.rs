//! What kind of failure a service answers with.

/// The kinds of failure that cross a service's edge; `proto` maps each to one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceCode {
    /// The request itself is wrong; the same request will fail again.
    InvalidArgument,
    /// What it names does not exist.
    NotFound,
    /// It exists already, and is something else.
    AlreadyExists,
    /// The state does not allow it now.
    FailedPrecondition,
    /// The caller's view is stale: it acted for an attempt that is over.
    Aborted,
    /// Too much of something.
    ResourceExhausted,
    /// Not for this caller.
    PermissionDenied,
    /// It took too long.
    DeadlineExceeded,
    /// The service cannot answer now; try again.
    Unavailable,
    /// This build does not do that.
    Unimplemented,
    /// A bug.
    Internal,
}

impl ServiceCode {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::ResourceExhausted,
        Self::PermissionDenied,
        Self::DeadlineExceeded,
        Self::Unavailable,
        Self::Unimplemented,
        Self::Internal,
    ];

    /// Whether the same request may succeed later.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::DeadlineExceeded | Self::ResourceExhausted
        )
    }
}

/// An error that a service can answer with.
pub trait Coded: std::error::Error {
    /// What kind of failure it is.
    fn code(&self) -> ServiceCode;
}
