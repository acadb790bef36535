"""What may a request for plain completion say, besides what all requests for text may?"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import MOST_LOGPROBS
from maxserve.plugins.api.common.bodies import FAIL_FAST, Strings, TextBody, TokenIds

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
    max_tokens: int | None = Field(None, ge=0, description="0 is for the logprobs of an echoed prompt")
    logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="how likely tokens, and so many others, were"
    )
    echo: bool | None = Field(None, description="the text begins with the prompt")

    @model_validator(mode="after")
    def _nothing_at_all(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            message = "max_tokens: 0 leaves nothing to answer, unless echo is set"
            raise RequestError(message, param="max_tokens", code="invalid_value")
        return self

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        """An echoed prompt has logprobs like the rest of the text."""
        return self.logprobs if self.echo and self.prompt_logprobs is None else self.prompt_logprobs
