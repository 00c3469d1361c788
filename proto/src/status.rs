//! Errors at the edge: the one table of codes, and spec errors as `google.rpc.BadRequest`.

use diptych_common::error::{Coded, ServiceCode};
use diptych_common::spec::{FieldError, SpecErrors};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Errors travel in HTTP/2 headers, of which clients take 16 KiB by default (base64 adds a third).
const DETAIL_BYTES: usize = 8 * 1024;

/// The gRPC code of each kind of failure.
pub fn grpc_code(code: ServiceCode) -> Code {
    match code {
        ServiceCode::InvalidArgument => Code::InvalidArgument,
        ServiceCode::NotFound => Code::NotFound,
        ServiceCode::AlreadyExists => Code::AlreadyExists,
        ServiceCode::FailedPrecondition => Code::FailedPrecondition,
        ServiceCode::Aborted => Code::Aborted,
        ServiceCode::ResourceExhausted => Code::ResourceExhausted,
        ServiceCode::PermissionDenied => Code::PermissionDenied,
        ServiceCode::DeadlineExceeded => Code::DeadlineExceeded,
        ServiceCode::Unavailable => Code::Unavailable,
        ServiceCode::Unimplemented => Code::Unimplemented,
        ServiceCode::Internal => Code::Internal,
    }
}

/// The kind of failure that a status stands for, also when no Diptych service made it.
pub fn service_code(status: &Status) -> ServiceCode {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => ServiceCode::InvalidArgument,
        Code::NotFound => ServiceCode::NotFound,
        Code::AlreadyExists => ServiceCode::AlreadyExists,
        Code::FailedPrecondition => ServiceCode::FailedPrecondition,
        Code::Aborted => ServiceCode::Aborted,
        Code::ResourceExhausted => ServiceCode::ResourceExhausted,
        Code::PermissionDenied | Code::Unauthenticated => ServiceCode::PermissionDenied,
        Code::DeadlineExceeded => ServiceCode::DeadlineExceeded,
        Code::Unavailable | Code::Cancelled => ServiceCode::Unavailable,
        Code::Unimplemented => ServiceCode::Unimplemented,
        Code::Ok | Code::Unknown | Code::DataLoss | Code::Internal => ServiceCode::Internal,
    }
}

/// The status of an error that knows its code.
pub fn status(error: &dyn Coded) -> Status {
    Status::new(grpc_code(error.code()), error.to_string())
}

/// INVALID_ARGUMENT with one field violation for each error, as many as fit; the last then says how many do not.
pub fn spec_status(errors: &SpecErrors) -> Status {
    let mut details = ErrorDetails::new();
    let mut room = DETAIL_BYTES;
    for (index, FieldError { path, message }) in errors.0.iter().enumerate() {
        let size = path.len() + message.len() + 16;
        if size > room {
            details.add_bad_request_violation(
                "",
                format!("and {} more errors", errors.0.len() - index),
            );
            break;
        }
        room -= size;
        details.add_bad_request_violation(path, message);
    }
    let count = errors.0.len();
    let plural = if count == 1 { "error" } else { "errors" };
    Status::with_error_details(
        Code::InvalidArgument,
        format!("the spec has {count} {plural}"),
        details,
    )
}

/// The field errors that a status carries; empty where it carries none.
pub fn field_errors(status: &Status) -> Vec<FieldError> {
    let violations = status
        .get_details_bad_request()
        .map(|request| request.field_violations)
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| FieldError::new(violation.field, violation.description))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_as_they_went() {
        for code in ServiceCode::ALL {
            assert_eq!(service_code(&Status::new(grpc_code(code), "")), code);
        }
    }

    #[test]
    fn field_errors_cross_the_wire() {
        let errors = vec![
            FieldError::new("phases[0].batch", "0 is less than 2"),
            FieldError::new("name", "is required"),
        ];
        let status = spec_status(&SpecErrors(errors.clone()));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(field_errors(&status), errors);
        assert!(field_errors(&Status::internal("x")).is_empty());
    }

    #[test]
    fn many_errors_fit_into_the_headers_that_clients_accept() {
        let errors = (0..1000)
            .map(|i| FieldError::new(format!("phases[{i}].batch"), "is required"))
            .collect();
        let status = spec_status(&SpecErrors(errors));
        let found = field_errors(&status);
        assert!(
            status.details().len() < 12 * 1024,
            "{}",
            status.details().len()
        );
        let last = found.last().expect("some fit");
        assert_eq!(
            last.message,
            format!("and {} more errors", 1000 - (found.len() - 1))
        );
    }
}
