"""What may requests for ranks and scores say?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from maxserve.core.answers.bodies import FAIL_FAST, Strings
from maxserve.core.errors import RequestError
from maxserve.core.server.fields import Body


class Document(Body):
    """A document as an object."""

    text: str


class _Ranked(Body):
    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: int | None = Field(
        None, description="cut longer texts to so many tokens, -1 for as many as the model takes; refused otherwise"
    )


class RerankBody(_Ranked):
    """A query, and documents to be put in order by how well they answer it."""

    query: str
    documents: Annotated[list[str | Document], FAIL_FAST, Field(min_length=1)]
    top_n: Annotated[int, Field(ge=0)] | None = Field(None, description="only the best; 0 is all")
    return_documents: bool | None = Field(None, description="tell the documents' texts again; so it is unless false")

    @property
    def texts(self) -> list[str]:
        return [each if isinstance(each, str) else each.text for each in self.documents]


class ScoreBody(_Ranked):
    """Texts to be compared: one with one, one with many, or each with the one at its place."""

    text_1: str | Annotated[Strings, Field(min_length=1)]
    text_2: str | Annotated[Strings, Field(min_length=1)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        firsts = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        seconds = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        return list(zip(firsts * len(seconds) if len(firsts) == 1 else firsts, seconds, strict=True))

    @property
    def names(self) -> list[tuple[str, str]]:
        """Where the texts of each pair stand in the body."""
        count = len(self.pairs)
        one = ["text_1"] * count if _single(self.text_1) else [f"text_1[{place}]" for place in range(count)]
        two = ["text_2"] if isinstance(self.text_2, str) else [f"text_2[{place}]" for place in range(count)]
        return list(zip(one, two, strict=True))

    @model_validator(mode="after")
    def _lengths_that_match(self) -> ScoreBody:
        if not _single(self.text_1):
            seconds = 1 if isinstance(self.text_2, str) else len(self.text_2)
            if len(self.text_1) != seconds:
                message = f"text_1 has {len(self.text_1)} texts and text_2 {seconds}; give as many, or one text_1"
                raise RequestError(message, param="text_2", code="invalid_value")
        return self


def _single(text: str | list[str]) -> bool:
    return isinstance(text, str) or len(text) == 1
