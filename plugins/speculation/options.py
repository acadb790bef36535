"""Options of speculative methods."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.config import CheckpointSettings, Settings, check_checkpoint
from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError


@dataclass(frozen=True, slots=True)
class NgramSettings:
    """Settings of prompt lookup."""

    prompt_lookup_max: Annotated[
        int,
        Option(used_by="speculator"),
        Field(description="Most last tokens that are looked for in the text before.", ge=1, le=64),
    ] = 5
    prompt_lookup_min: Annotated[
        int,
        Option(used_by="speculator"),
        Field(description="Fewest last tokens that must have been there before.", ge=1, le=64),
    ] = 2


def check_ngram(settings: Settings, ngram: NgramSettings) -> None:
    """SettingsError where the shortest run is longer than the longest."""
    if ngram.prompt_lookup_min > ngram.prompt_lookup_max:
        raise SettingsError(
            f"--ngram.prompt-lookup-min {ngram.prompt_lookup_min} is more than --ngram.prompt-lookup-max "
            f"{ngram.prompt_lookup_max}"
        )


@dataclass(frozen=True, slots=True)
class SuffixSettings:
    """Settings of suffix decoding."""

    max_match_length: Annotated[
        int,
        Option(used_by="speculator"),
        Field(description="Most last tokens that are compared with texts before.", ge=2, le=128),
    ] = 24
    max_spec_factor: Annotated[
        float,
        Option(used_by="speculator"),
        Field(description="Most drafts for each token that matches, within --num-speculative-tokens.", gt=0, le=64),
    ] = 1.0
    min_token_prob: Annotated[
        float,
        Option(used_by="speculator"),
        Field(description="Least likelihood, as counted, that all drafts up to one stand.", ge=0, le=1),
    ] = 0.1
    max_cached_tokens: Annotated[
        int,
        Option(used_by="speculator"),
        Field(
            description="Tokens of past answers that drafts are taken from, some 400 bytes each: those of requests "
            "with the same cache_salt. How fast an answer comes may tell what others with that salt, or "
            "without one, were answered. 0 keeps none.",
            ge=0,
            le=1 << 26,
        ),
    ] = 0


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """The methods that draft one after the other."""

    first: Annotated[
        str,
        Option(used_by="speculator", registry="speculators"),
        Field(description="Who is asked for drafts first: best a method without weights."),
    ] = "ngram"
    then: Annotated[
        str | None,
        Option(used_by="speculator", registry="speculators"),
        Field(description="Who drafts for requests for which the first method proposed nothing."),
    ] = None


def check_cascade(settings: Settings, cascade: CascadeSettings) -> None:
    """SettingsError where the two methods are not two."""
    chosen = settings.speculative.speculative_method == "cascade"
    if chosen and (cascade.first == cascade.then or "cascade" in (cascade.first, cascade.then)):
        raise SettingsError(
            f"--cascade.first {cascade.first}, --cascade.then {cascade.then}: expected two different methods, none of "
            "which is cascade"
        )


@dataclass(frozen=True, slots=True)
class SyntheticSettings:
    """Settings of drafts for benchmarks."""

    acceptance: Annotated[
        float,
        Option(used_by="speculator"),
        Field(description="Share of the drafts that are right: 0 for none, 1 for all.", ge=0, le=1),
    ] = 0.7


class DraftModel(CheckpointSettings):
    """The smaller model that proposes tokens; used when it has a path."""

    model_path: Annotated[
        str,
        Option(early=True, used_by="speculator"),
        Field(description=CheckpointSettings.model_fields["model_path"].description),
    ] = ""


for _field in DraftModel.model_fields.values():
    _field.description = f"For the draft model. {_field.description}".replace("--", "--draft-")
DraftModel.model_fields["served_model_name"].description = "What the log calls the draft model; unset, its path."
DraftModel.model_fields[
    "devices"
].description = "Where the draft model runs: where the target does, default or by name."


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
    """SettingsError where the options of the draft model contradict each other."""
    if not draft.model_path:
        _validate_needed(settings.chosen, draft)
        return
    check_checkpoint(draft, "--draft-")
    target = settings.model
    if draft.data_parallel_degree not in (1, target.data_parallel_degree):
        raise SettingsError(
            f"--draft-data-parallel-degree {draft.data_parallel_degree}: each replica of the model drafts for itself, "
            f"and there are {target.data_parallel_degree} (--data-parallel-degree); leave it out"
        )
    if "," in draft.devices and draft.devices != target.devices:
        raise SettingsError(
            f"--draft-devices {draft.devices}: the draft model runs where the target does, on --devices "
            f"{target.devices}; leave it out"
        )


def _validate_needed(chosen: Set[str], draft: DraftModel) -> None:
    """SettingsError for options of the draft model that ask for something, where there is none."""
    keys = [key for key in type(draft).model_fields if f"draft_model.{key}" in chosen]
    asking = [key for key in sorted(keys) if getattr(draft, key) != type(draft).model_fields[key].get_default()]
    if asking:
        flags = ", ".join("--draft-" + key.replace("_", "-") for key in asking)
        raise SettingsError(
            f"{flags}: there is no draft model; give --draft-model-path and a --speculative-method that uses it, or "
            "leave the option out"
        )
