"""Bodies of requests for ranks and scores, in the words of vLLM, Cohere, Jina, Voyage and TEI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.bodies import FAIL_FAST
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.embeddings.vector_fields import VectorFields

# The names that the two sides of a score go by.
SIDES = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))


class TextPart(Body):
    """A part of a document's content."""

    type: Literal["text"]
    text: str


class Document(Body):
    """A document as an object: its text, or its content as parts of text."""

    text: str | None = None
    content: str | Annotated[list[TextPart], FAIL_FAST, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_text(self) -> Document:
        if (self.text is None) == (self.content is None):
            raise ValueError("a document that is an object has either text or content")
        return self


Text = str | Document
Texts = Annotated[list[Text], FAIL_FAST, Field(min_length=1)]


def text_of(given: Text) -> str:
    """The text of a document, parts of its content on lines of their own."""
    if isinstance(given, str):
        return given
    content = given.content if given.text is None else given.text
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())


class _Pairs(VectorFields):
    """What requests for ranks and for scores may say."""

    raw_scores: bool | None = Field(None, description="the model's logits; the opposite of use_activation")
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(
        None, description="cut each document to so many tokens, before it is joined to its query"
    )

    max_tokens_per_query: Annotated[int, Field(ge=1)] | None = Field(None, description="the same of each query")

    @property
    def activation(self) -> bool | None:
        """Whether scores pass through the model's last function; None: not given."""
        return self.use_activation if self.raw_scores is None else not self.raw_scores

    @model_validator(mode="after")
    def _one_activation(self) -> _Pairs:
        if self.raw_scores is not None and self.use_activation is not None and self.raw_scores == self.use_activation:
            raise RequestError(
                "raw_scores and use_activation contradict each other; give one",
                param="raw_scores",
                code="invalid_value",
            )
        return self


class RerankBody(_Pairs):
    """A query, and documents to be put in order by how well they answer it; TEI calls them `texts`."""

    query: Text
    documents: Texts | None = None
    texts: Texts | None = Field(None, description="documents in the words of TEI, whose form the answer then has")
    top_n: Annotated[int, Field(ge=0)] | None = Field(None, description="only the best; 0 is all")
    top_k: Annotated[int, Field(ge=0)] | None = Field(None, description="the same in the words of Voyage")
    return_documents: bool | None = Field(None, description="tell the documents' texts again; so it is unless false")
    return_text: bool | None = Field(None, description="tell the texts again in an answer of TEI's form; default false")

    @field_validator("top_k")
    @classmethod
    def _zero_is_all(cls, value: int | None) -> int | None:
        return value or None

    @model_validator(mode="after")
    def _one_list(self) -> RerankBody:
        if (self.documents is None) == (self.texts is None):
            raise RequestError("give documents (or texts, for an answer in TEI's form)", param="documents")
        return self

    @property
    def field(self) -> str:
        """The name of the documents in the body."""
        return "documents" if self.texts is None else "texts"

    @property
    def document_texts(self) -> list[str]:
        return [text_of(each) for each in self.documents or self.texts or ()]

    @property
    def most(self) -> int | None:
        """How many results are wanted; None: all."""
        return self.top_n or self.top_k or None


class ScoreBody(_Pairs):
    """Texts to be compared: one with one, one with many, or each with the one at its index."""

    text_1: Text | Texts | None = None
    text_2: Text | Texts | None = None
    queries: Text | Texts | None = Field(None, description="the first side; the second is documents or items")
    documents: Text | Texts | None = None
    items: Text | Texts | None = None
    data_1: Text | Texts | None = None
    data_2: Text | Texts | None = None

    @property
    def sides(self) -> tuple[str, str]:
        """The names of the two sides in the body; RequestError unless it has exactly two that belong together."""
        given = {name for name in {each for pair in SIDES for each in pair} if getattr(self, name) is not None}
        found = next((pair for pair in SIDES if set(pair) == given), None)
        if found is None:
            forms = ", ".join(f"{one} and {other}" for one, other in SIDES)
            message = f"give two sides: {forms}; got {', '.join(sorted(given)) or 'none'}"
            raise RequestError(message, param=next(iter(sorted(given)), "queries"))
        return found

    @property
    def pairs(self) -> list[tuple[str, str]]:
        firsts, seconds = (_listed(getattr(self, name)) for name in self.sides)
        return list(zip(firsts * len(seconds) if len(firsts) == 1 else firsts, seconds, strict=True))

    @property
    def names(self) -> list[tuple[str, str]]:
        """Where the texts of each pair stand in the body."""
        first, second = self.sides
        count = len(self.pairs)
        single = len(_listed(getattr(self, first))) == 1
        one = [first] * count if single else [f"{first}[{index}]" for index in range(count)]
        many = isinstance(getattr(self, second), list)
        two = [f"{second}[{index}]" for index in range(count)] if many else [second]
        return list(zip(one, two, strict=True))

    @model_validator(mode="after")
    def _lengths_that_match(self) -> ScoreBody:
        first, second = self.sides
        firsts, seconds = (len(_listed(getattr(self, name))) for name in (first, second))
        if firsts not in (1, seconds):
            message = f"{first} has {firsts} texts and {second} {seconds}; give as many, or one {first}"
            raise RequestError(message, param=second, code="invalid_value")
        return self


def _listed(given: Any) -> list[str]:
    """The texts of one side."""
    return list(_texts(given if isinstance(given, list) else [given]))


def _texts(given: list[Text]) -> Iterator[str]:
    yield from map(text_of, given)
