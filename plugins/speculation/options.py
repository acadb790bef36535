"""Options of speculative methods."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.config import CheckpointSettings, Settings, check_checkpoint
from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.speculation import NO_DRAFT


@dataclass(frozen=True, slots=True)
class NgramSettings:
    """Settings of prompt lookup."""

    prompt_lookup_max: Annotated[
        int, Field(description="Most last tokens that are looked for in the text before.", ge=1, le=64)
    ] = 5
    prompt_lookup_min: Annotated[
        int, Field(description="Fewest last tokens that must have been there before.", ge=1, le=64)
    ] = 2


def check_ngram(settings: Settings, ngram: NgramSettings) -> None:
    """SettingsError where the shortest run is longer than the longest."""
    if ngram.prompt_lookup_min > ngram.prompt_lookup_max:
        raise SettingsError(
            f"--ngram.prompt-lookup-min {ngram.prompt_lookup_min} is more than --ngram.prompt-lookup-max "
            f"{ngram.prompt_lookup_max}"
        )


class DraftModel(CheckpointSettings):
    """The smaller model that proposes tokens; used when it has a path."""


for _field in DraftModel.model_fields.values():
    _field.description = f"For the draft model. {_field.description}".replace("--", "--draft-")


@dataclass(frozen=True, slots=True)
class DraftFiles:
    """Files with settings of the draft model."""

    config_file: Annotated[
        tuple[str, ...],
        Option(metavar="FILE"),
        Field(description="YAML file with settings of the draft model."),
    ] = ()
    section_name: Annotated[
        tuple[str, ...],
        Option(metavar="TEXT"),
        Field(description="Key of that file below which the settings are; unset, the whole file."),
    ] = ()


def check_draft(settings: Settings, draft: DraftModel) -> None:
    """SettingsError where the options of the draft model contradict each other.

    Those that have no feature yet are refused later, with better advice.
    """
    if draft.model_path:
        check_checkpoint(draft, "--draft-")
    elif not NO_DRAFT:
        _validate_needed(settings.chosen)


def _validate_needed(chosen: Set[str]) -> None:
    keys = sorted(path.removeprefix("draft_model.") for path in chosen if path.startswith("draft_model."))
    if keys:
        flags = ", ".join("--draft-" + key.replace("_", "-") for key in keys)
        raise SettingsError(f"{flags}: there is no draft model; give --draft-model-path too")
