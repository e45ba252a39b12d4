"""What an OAuth endpoint answers when it refuses. No HTTP, no state.

Exception
└── OAuthError      an error of RFC 6749 §5.2, RFC 7009 §2.2.1 or RFC 6750 §3.1
"""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "access_denied",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "login_required",
    "server_error",
    "slow_down",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "unsupported_token_type",
]


class OAuthError(Exception):
    """`error` its code, `description` for developers (never a value of the request), `retry_after` in seconds."""

    def __init__(
        self, error: ErrorCode, description: str, status: int = 400, *, retry_after: float | None = None
    ) -> None:
        self.error = error
        self.description = description
        self.status = status
        self.retry_after = retry_after
        super().__init__(description)
