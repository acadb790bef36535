"""What may a request for plain completion say, besides what all requests for text may?"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from maxserve.core.answers.bodies import FAIL_FAST, Strings, TextBody, TokenIds

MOST_PROMPTS = 2048
PROMPT_FORMS = "a string, a list of strings, a list of token ids, or a list of such lists; ids are integers from 0"


def _one_of_the_forms(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One sentence instead of a complaint for each form that the value does not have."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError(f"must be {PROMPT_FORMS}") from None


Prompt = Annotated[str | Strings | TokenIds | Annotated[list[TokenIds], FAIL_FAST], WrapValidator(_one_of_the_forms)]


class CompletionBody(TextBody):
    """Text, or token ids, to be continued; a list of them gives a choice (or `n`) for each."""

    prompt: Prompt
