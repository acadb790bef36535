"""What ended an answer, in the words of vLLM (`stop_reason`) and of SGLang (`matched_stop`)."""

from __future__ import annotations

from typing import TypedDict

from maxserve.interfaces.request import Request


class StopReason(TypedDict):
    """A stop string, the id of a token, or null where neither ended the answer.

    `stop_reason` names what the request asked for only: null for the model's own end token.
    """

    stop_reason: str | int | None
    matched_stop: str | int | None


def stop_reason(request: Request, stop: str | None, token: int | None) -> StopReason:
    """The fields of a choice that was ended by the string `stop`, or by `token`."""
    asked = token if token in request.params.stop_token_ids else None
    return {
        "stop_reason": asked if stop is None else stop,
        "matched_stop": token if stop is None else stop,
    }
