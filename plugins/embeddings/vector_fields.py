"""Fields that requests for embeddings, ranks and scores share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.tokenizer import Truncation, TruncationSide
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.unsupported import EMPTY, OFF, Neutral, one_of, warnings_of
from maxserve.plugins.embeddings.encoder_input import EncoderInputs

# Known fields that would change vectors or scores and cannot be done, with the values that ask for nothing.
UNSUPPORTED_OF_VECTORS: Mapping[str, Neutral] = {
    "priority": one_of(0),  # encoders serve requests in turn
    "padding": one_of("do_not_pad"),
    "mm_processor_kwargs": EMPTY,
    "media_io_kwargs": EMPTY,
    "chat_template": Neutral(),
    "instruct": EMPTY,
    "instruction": EMPTY,
    "rank_fields": one_of([], ["text"]),
    "max_chunks_per_doc": one_of(1),
    "label_token_ids": EMPTY,
    "apply_softmax": OFF,
    "item_first": OFF,
    "late_chunking": OFF,
    "task": Neutral(),
    "embedding_type": one_of("float"),
    "embedding_types": one_of([], ["float"]),
    "output_dtype": one_of("float"),
    "modality": one_of("text", ["text"]),
    "images": EMPTY,
}

_CUT_BY_WORD: Mapping[str, TruncationSide | None] = {"none": None, "start": "left", "end": "right"}


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class VectorFields(Body):
    """How texts are cut, whose request it is, and whether the model's last function is applied."""

    model: str | None = None
    user: str | None = Field(None, max_length=1 << 16)
    request_id: str | None = Field(None, description="taken for clients that send it; X-Request-Id names an answer")
    cache_salt: str | None = Field(None, description="taken for clients that send it: nothing of a text is kept")
    truncate_prompt_tokens: int | None = Field(
        None, description="cut longer texts to so many tokens, -1 for as many as the model takes; refused otherwise"
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="where texts are cut: at the start, or (the default) at the end"
    )
    truncate: bool | Annotated[Literal["none", "start", "end"], BeforeValidator(_lower)] | None = Field(
        None, description="cut longer texts to what the model takes; NONE, START or END say where"
    )
    truncation: bool | None = Field(None, description="the same as true or false")
    truncation_direction: Annotated[Literal["left", "right"], BeforeValidator(_lower)] | None = Field(
        None, description="truncation_side in the words of TEI"
    )
    use_activation: bool | None = Field(
        None,
        description="apply the last function (length 1 of a vector, the logistic one of a score), or leave it out",
    )

    @field_validator("truncate")
    @classmethod
    def _no_words_for_switches(cls, value: bool | str | None) -> bool | str | None:
        return False if value == "none" else value

    @model_validator(mode="after")
    def _one_side(self) -> VectorFields:
        named = {"start": "left", "end": "right"}.get(str(self.truncate))
        sides = {side for side in (self.truncation_side, self.truncation_direction, named) if side is not None}
        if len(sides) > 1:
            message = "truncation_side, truncation_direction and truncate contradict each other; give one"
            raise RequestError(message, param="truncation_side")
        return self

    def truncated(self, inputs: EncoderInputs) -> Truncation | None:
        """How the request wants texts cut; RequestError for what cannot be done."""
        named: TruncationSide | None = _CUT_BY_WORD.get(str(self.truncate))
        side = self.truncation_side or self.truncation_direction or named
        wanted = self.truncate_prompt_tokens
        if wanted is None and (self.truncate or self.truncation):
            wanted = -1
        if wanted is not None and (self.truncate is False or self.truncation is False):
            param = "truncate" if self.truncate is False else "truncation"
            raise RequestError(f"{param} is off and truncate_prompt_tokens is {wanted}; give one", param=param)
        return inputs.truncation(wanted, side)

    def warnings(self, *, strict: bool, taken: frozenset[str] = frozenset()) -> list[str]:
        """A line for each unknown field; RequestError for one that cannot be done."""
        unsupported = {name: value for name, value in UNSUPPORTED_OF_VECTORS.items() if name not in taken}
        return warnings_of(self.unknown(), strict=strict, unsupported=unsupported)
