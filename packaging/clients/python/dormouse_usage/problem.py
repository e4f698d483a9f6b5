"""What goes wrong, with a stable reason."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The stable reason codes; a server may be newer than this list."""

    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NO_SUCH_RESOURCE = "NO_SUCH_RESOURCE"
    SANDBOX_NOT_FOUND = "SANDBOX_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    INVALID_PARAMETER = "INVALID_PARAMETER"
    REPEATED_PARAMETER = "REPEATED_PARAMETER"
    INVALID_WINDOW = "INVALID_WINDOW"
    INVALID_CURSOR = "INVALID_CURSOR"
    INVALID_BODY = "INVALID_BODY"
    INVALID_TAG = "INVALID_TAG"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    LEDGER_UNWRITABLE = "LEDGER_UNWRITABLE"
    LEDGER_UNREADABLE = "LEDGER_UNREADABLE"
    BUG = "BUG"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        return cls.UNKNOWN


class Problem(Exception):
    """The server has refused, or could not answer (RFC 9457)."""

    def __init__(self, status: int, reason: Reason, title: str, detail: str) -> None:
        super().__init__(f"{title}: {detail} [{reason}]")
        self.status = status
        self.reason = reason
        self.title = title
        self.detail = detail


class Unreachable(Exception):
    """There was no answer, or none that is the server's."""
