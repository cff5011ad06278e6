"""Answers of the HTTP door: JSON that says what it may be used for, and repeats no request."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from leadapron.service.answers import RESEARCH

__all__ = ["RETRY_SECONDS", "RequestRefusedError", "error_reply", "json_reply", "reply"]

RETRY_SECONDS = "2"


class RequestRefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        words: the reason; it repeats nothing of the request.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(status, words)
        self.status, self.words = status, words

    def __str__(self) -> str:
        return self.words


def reply(status: int, content: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return an answer.

    Args:
        status: HTTP status.
        content: JSON.
        headers: further headers.
    """
    return Response(content, status, headers, media_type="application/json")


def json_reply(status: int, facts: dict[str, Any]) -> Response:
    """Return facts as JSON, with the schema's number and what they may be used for."""
    return reply(status, json.dumps({"schema": 1, **facts, "use": RESEARCH}).encode() + b"\n")


def error_reply(status: int, words: str) -> Response:
    """Return an error as JSON; 429 and 503 say when to come again."""
    answer = json_reply(status, {"error": words})
    if status in (429, 503):
        answer.headers["Retry-After"] = RETRY_SECONDS
    return answer
