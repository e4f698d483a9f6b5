//! What goes wrong, as RFC 9457 says it: one stable reason each.

use std::collections::BTreeMap;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use dormouse_ledger::LedgerError;
use serde::Serialize;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder, ResponsesBuilder};
use utoipa::{IntoResponses, ToSchema};

/// What problems are sent as (RFC 9457).
const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $status:ident, $title:literal;)*) => {
        /// The stable reason codes of problems, each with its HTTP status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status, as a number.
            pub const fn status(self) -> u16 {
                self.code().as_u16()
            }

            const fn code(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    /// No token, or one that is nobody's.
    Unauthenticated = "UNAUTHENTICATED" => UNAUTHORIZED, "No valid token";
    /// The token does not allow it.
    PermissionDenied = "PERMISSION_DENIED" => FORBIDDEN, "The token does not allow this";
    /// There is nothing at this path.
    NoSuchResource = "NO_SUCH_RESOURCE" => NOT_FOUND, "No such resource";
    /// The org has no such sandbox.
    SandboxNotFound = "SANDBOX_NOT_FOUND" => NOT_FOUND, "No such sandbox";
    /// The resource does not do this.
    MethodNotAllowed = "METHOD_NOT_ALLOWED" => METHOD_NOT_ALLOWED, "Method not allowed";
    /// A parameter is unknown, or not what it may be.
    InvalidParameter = "INVALID_PARAMETER" => BAD_REQUEST, "Invalid parameter";
    /// A parameter is given twice.
    RepeatedParameter = "REPEATED_PARAMETER" => BAD_REQUEST, "Repeated parameter";
    /// The window is empty, or longer than 90 days.
    InvalidWindow = "INVALID_WINDOW" => BAD_REQUEST, "Invalid window";
    /// The cursor was not handed out for this question.
    InvalidCursor = "INVALID_CURSOR" => BAD_REQUEST, "Invalid cursor";
    /// The body is not what it must be.
    InvalidBody = "INVALID_BODY" => BAD_REQUEST, "Invalid body";
    /// A tag breaks a rule.
    InvalidTag = "INVALID_TAG" => BAD_REQUEST, "Invalid tag";
    /// The body is too large.
    BodyTooLarge = "BODY_TOO_LARGE" => PAYLOAD_TOO_LARGE, "Body too large";
    /// The token asks too often, or too much at once.
    RateLimited = "RATE_LIMITED" => TOO_MANY_REQUESTS, "Too many requests";
    /// The answer took too long, and was given up.
    DeadlineExceeded = "DEADLINE_EXCEEDED" => GATEWAY_TIMEOUT, "Deadline exceeded";
    /// The ledger cannot be written.
    LedgerUnwritable = "LEDGER_UNWRITABLE" => SERVICE_UNAVAILABLE, "Ledger not writable";
    /// The ledger cannot be read.
    LedgerUnreadable = "LEDGER_UNREADABLE" => SERVICE_UNAVAILABLE, "Ledger not readable";
    /// A bug.
    Bug = "BUG" => INTERNAL_SERVER_ERROR, "Internal error";
}

/// A problem, as its JSON is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `urn:dormouse:reason:` and the reason.
    #[serde(rename = "type")]
    #[schema(example = "urn:dormouse:reason:INVALID_WINDOW")]
    kind: String,
    /// The kind of problem, in words.
    pub(super) title: &'static str,
    /// The HTTP status.
    pub(super) status: u16,
    /// What is wrong, and what to do.
    pub(super) detail: String,
    /// The stable reason code.
    pub(super) reason: &'static str,
}

impl Problem {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:dormouse:reason:{}", reason.as_str()),
            title: reason.title(),
            status: reason.status(),
            detail: detail.into(),
            reason: reason.as_str(),
        }
    }

    /// There is no such sandbox in the token's org, whatever other orgs have.
    pub(super) fn no_sandbox(id: &str) -> Self {
        Self::new(Reason::SandboxNotFound, format!("your org has no sandbox {id:?}"))
    }

    pub(super) fn deadline() -> Self {
        let detail =
            "the answer took too long and was given up: ask for a shorter window, or for larger points";
        Self::new(Reason::DeadlineExceeded, detail)
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        let reason = match &error {
            LedgerError::InvalidTag { .. } => Reason::InvalidTag,
            LedgerError::UnknownSandbox(key) => return Self::no_sandbox(&key.sandbox),
            LedgerError::Cancelled => return Self::deadline(),
            LedgerError::Unwritable { .. } => Reason::LedgerUnwritable,
            LedgerError::Unreadable { .. } | LedgerError::Missing { .. } | LedgerError::Fleet(_) => {
                Reason::LedgerUnreadable
            }
            _ => Reason::Bug,
        };
        if reason == Reason::InvalidTag {
            return Self::new(reason, error.to_string());
        }
        // Paths and what SQLite said are for the log, not for customers.
        tracing::error!(%error, reason = error.reason(), "a question over HTTP was not answered");
        Self::new(reason, "the ledger could not be used: its operator finds the cause in the log")
    }
}

/// What every path of the specification may answer instead.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let schema = Ref::from_schema_name(Self::name());
        let problem = ResponseBuilder::new().content(MEDIA_TYPE, Content::new(Some(schema))).build();
        ResponsesBuilder::new().response("4XX", problem.clone()).response("5XX", problem).build().into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = self.reason;
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if reason == Reason::Unauthenticated.as_str() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if reason == Reason::RateLimited.as_str() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Nothing is at this path.
pub(super) async fn no_such_resource() -> Problem {
    Problem::new(
        Reason::NoSuchResource,
        "there is nothing at this path: /api/openapi.json lists what there is",
    )
}

/// The resource does not do this.
pub(super) async fn no_such_method() -> Problem {
    Problem::new(
        Reason::MethodNotAllowed,
        "the resource does not do this: /api/openapi.json lists what there is",
    )
}
