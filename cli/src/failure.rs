//! How a command fails: one code for programs, one text for people, one exit code for scripts.

use diptych_common::spec::{FieldError, SpecErrors};
use serde::Serialize;
use tonic_types::StatusExt as _;

/// Why a command failed. The code and the exit code are stable; `diptych --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// The job ended without success.
    JobFailed,
    /// Anything that has no code of its own.
    Failed,
    /// The command line cannot be run.
    Usage,
    /// The spec, or another argument, is not valid; the fields say where.
    Invalid,
    /// There is no such job, checkpoint, phase or file.
    NotFound,
    /// The coordinator does not know or trust the caller.
    Unauthenticated,
    /// The coordinator, or the object store, cannot be reached.
    Unavailable,
    /// A time limit ran out.
    Timeout,
    /// The state of the job, or an earlier request, does not allow it.
    Conflict,
    /// Ctrl-C; the job goes on.
    Interrupted,
    /// Nobody reads standard output any more.
    PipeClosed,
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What kind.
    pub(crate) code: Code,
    /// What was wrong, where, and what to do.
    pub(crate) message: String,
    /// Every bad field, where fields are to blame.
    pub(crate) fields: Vec<FieldError>,
}

/// What `-o json` prints for a failure.
#[derive(Debug, Serialize)]
pub(crate) struct FailureView<'a> {
    error: ErrorView<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorView<'a> {
    code: Code,
    message: &'a str,
    fields: Vec<FieldView<'a>>,
}

#[derive(Debug, Serialize)]
struct FieldView<'a> {
    path: &'a str,
    message: &'a str,
}

impl Code {
    /// The exit code that scripts see.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Code::PipeClosed => 0,
            Code::JobFailed | Code::Failed => 1,
            Code::Usage | Code::Invalid => 2,
            Code::NotFound => 3,
            Code::Unauthenticated => 4,
            Code::Unavailable => 5,
            Code::Timeout => 6,
            Code::Conflict => 7,
            Code::Interrupted => 130,
        }
    }
}

impl Failure {
    /// A failure without fields.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fields: Vec::new(),
        }
    }

    /// The same failure, with what was being done in front of its text.
    pub(crate) fn while_doing(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The form that programs read.
    pub(crate) fn view(&self) -> FailureView<'_> {
        let fields = self
            .fields
            .iter()
            .map(|field| FieldView {
                path: &field.path,
                message: &field.message,
            })
            .collect();
        FailureView {
            error: ErrorView {
                code: self.code,
                message: &self.message,
                fields,
            },
        }
    }

    /// The form that people read: the message, then one line per field.
    pub(crate) fn text(&self) -> String {
        // A detach is what the user wanted.
        let mark = if self.code == Code::Interrupted {
            ""
        } else {
            "error: "
        };
        let mut text = format!("{mark}{}", self.message);
        for field in &self.fields {
            text.push_str(&format!("\n  {field}"));
        }
        text
    }

    /// Whether the same call may be sent again.
    pub(crate) fn is_transient(&self) -> bool {
        self.code == Code::Unavailable
    }
}

impl From<SpecErrors> for Failure {
    fn from(errors: SpecErrors) -> Self {
        let message = match errors.0.len() {
            1 => "the spec has one error".to_owned(),
            count => format!("the spec has {count} errors"),
        };
        Self {
            code: Code::Invalid,
            message,
            fields: errors.0,
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as Grpc;
        let code = match status.code() {
            Grpc::InvalidArgument | Grpc::OutOfRange => Code::Invalid,
            Grpc::NotFound => Code::NotFound,
            Grpc::Unauthenticated | Grpc::PermissionDenied => Code::Unauthenticated,
            Grpc::Unavailable | Grpc::ResourceExhausted => Code::Unavailable,
            Grpc::DeadlineExceeded => Code::Timeout,
            Grpc::AlreadyExists | Grpc::FailedPrecondition | Grpc::Aborted => Code::Conflict,
            // A connection that breaks under a stream arrives as one of these, with the transport's error as source.
            Grpc::Unknown | Grpc::Internal | Grpc::Cancelled if is_broken_connection(&status) => {
                Code::Unavailable
            }
            _ => Code::Failed,
        };
        let message = match status.code() {
            Grpc::Unimplemented => {
                "the coordinator does not know this call; compare the versions with `diptych version`".to_owned()
            }
            _ => status.message().to_owned(),
        };
        let fields = status
            .get_details_bad_request()
            .map(|bad| bad.field_violations)
            .unwrap_or_default()
            .into_iter()
            .map(|violation| FieldError {
                path: violation.field,
                message: violation.description,
            })
            .collect();
        Self {
            code,
            message,
            fields,
        }
    }
}

/// Whether the transport made this status, and not the coordinator.
pub(crate) fn is_broken_connection(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Code::PipeClosed,
            std::io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Failed, format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code as Grpc, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn each_status_has_its_exit_code() {
        let table = [
            (Grpc::InvalidArgument, 2),
            (Grpc::NotFound, 3),
            (Grpc::Unauthenticated, 4),
            (Grpc::PermissionDenied, 4),
            (Grpc::Unavailable, 5),
            (Grpc::DeadlineExceeded, 6),
            (Grpc::AlreadyExists, 7),
            (Grpc::FailedPrecondition, 7),
            (Grpc::Internal, 1),
            (Grpc::Unimplemented, 1),
        ];
        for (grpc, exit) in table {
            assert_eq!(
                Failure::from(Status::new(grpc, "text")).code.exit(),
                exit,
                "{grpc:?}"
            );
        }
        assert_eq!(Code::JobFailed.exit(), 1);
        assert_eq!(Code::Usage.exit(), 2);
        assert_eq!(Code::Interrupted.exit(), 130);
        assert_eq!(Code::PipeClosed.exit(), 0);
    }

    #[test]
    fn field_violations_become_fields() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("phases[1].batch", "must be at least 1");
        details.add_bad_request_violation("name", "is empty");
        let status =
            Status::with_error_details(Grpc::InvalidArgument, "the spec has 2 errors", details);
        let failure = Failure::from(status);
        assert_eq!(
            failure.text(),
            "error: the spec has 2 errors\n  phases[1].batch: must be at least 1\n  name: is empty"
        );
        let json = serde_json::to_value(failure.view()).unwrap();
        assert_eq!(json["error"]["code"], "invalid");
        assert_eq!(json["error"]["fields"][0]["path"], "phases[1].batch");
    }
}
