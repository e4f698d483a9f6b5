//! Refusals as gRPC statuses.

use std::collections::HashMap;

use dormouse_ledger::LedgerError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::sandbox::refusal::{self, Reason, Refusal};

/// The domain of `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "dormouse";

/// A refusal as a status: its kind is the code, and `google.rpc.ErrorInfo` carries the reason and the metadata.
pub fn status_of(refusal: Refusal) -> Status {
    let Refusal { reason, message, metadata } = refusal;
    let metadata: HashMap<String, String> = metadata.into_iter().collect();
    let details = ErrorDetails::with_error_info(reason.as_str(), ERROR_DOMAIN, metadata);
    Status::with_error_details(code_of(reason.status()), message, details)
}

/// What the ledger could not answer, as a status.
pub(super) fn status_of_ledger(error: &LedgerError) -> Status {
    let code = match error {
        LedgerError::InvalidTag { .. } => {
            return status_of(Refusal::new(Reason::InvalidTag, error.to_string()));
        }
        LedgerError::UnknownSandbox(key) => {
            let message = format!("there is no sandbox {}/{}, and there never was", key.org, key.sandbox);
            return status_of(Refusal::new(Reason::SandboxNotFound, message));
        }
        LedgerError::Unwritable { .. } => {
            return status_of(Refusal::new(Reason::LedgerUnwritable, error.to_string()));
        }
        LedgerError::Corrupt { .. } => Code::DataLoss,
        LedgerError::Unreadable { .. } | LedgerError::Missing { .. } => Code::Unavailable,
        _ => Code::Internal,
    };
    let details = ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, []);
    Status::with_error_details(code, error.to_string(), details)
}

const fn code_of(status: refusal::Status) -> Code {
    match status {
        refusal::Status::InvalidArgument => Code::InvalidArgument,
        refusal::Status::Unauthenticated => Code::Unauthenticated,
        refusal::Status::PermissionDenied => Code::PermissionDenied,
        refusal::Status::NotFound => Code::NotFound,
        refusal::Status::AlreadyExists => Code::AlreadyExists,
        refusal::Status::FailedPrecondition => Code::FailedPrecondition,
        refusal::Status::Aborted => Code::Aborted,
        refusal::Status::ResourceExhausted => Code::ResourceExhausted,
        refusal::Status::Unavailable => Code::Unavailable,
        refusal::Status::DeadlineExceeded => Code::DeadlineExceeded,
        refusal::Status::DataLoss => Code::DataLoss,
        refusal::Status::Internal => Code::Internal,
    }
}

/// The name of a status code, as gRPC writes it.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_reason_has_a_code_and_is_carried_with_its_metadata() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(*reason, "what and what to do").with("sandbox", "sb1");
            let status = status_of(refusal.clone());
            assert_ne!(status.code(), Code::Ok);
            assert_ne!(status.code(), Code::Unknown);
            assert_eq!(status.message(), refusal.message);
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.as_str(), "dormouse"));
            assert_eq!(info.metadata.into_iter().collect::<BTreeMap<_, _>>(), refusal.metadata);
        }
    }

    #[test]
    fn reasons_have_the_codes_that_the_interface_promises() {
        for (reason, code) in [
            (Reason::InvalidId, Code::InvalidArgument),
            (Reason::SizeMisaligned, Code::InvalidArgument),
            (Reason::CallerUnknown, Code::Unauthenticated),
            (Reason::RoleInsufficient, Code::PermissionDenied),
            (Reason::SandboxNotFound, Code::NotFound),
            (Reason::RequestIdReused, Code::AlreadyExists),
            (Reason::WrongState, Code::FailedPrecondition),
            (Reason::OperationUnderWay, Code::Aborted),
            (Reason::QueueFull, Code::ResourceExhausted),
            (Reason::QmpBusy, Code::Unavailable),
            (Reason::LedgerUnwritable, Code::Unavailable),
            (Reason::OutcomeUnknown, Code::DeadlineExceeded),
            (Reason::SnapshotDamaged, Code::DataLoss),
            (Reason::Bug, Code::Internal),
        ] {
            assert_eq!(status_of(Refusal::new(reason, "")).code(), code, "{reason:?}");
        }
    }
}
