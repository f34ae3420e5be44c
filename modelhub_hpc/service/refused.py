"""How a request is answered that cannot be served."""

from __future__ import annotations


class Refused(Exception):
    """The reply to a request that cannot be served; the message is for strangers: no paths, no traces.

    status: of HTTP; retry_after_s: when the same request may do better, None for never.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
