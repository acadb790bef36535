"""Speculative methods that come with maxserve"""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.speculator import Speculator


@hookimpl
def maxserve_speculators() -> Iterable[Speculator]:
    yield Speculator(
        name="ngram",
        build="maxserve.plugins.speculation.ngram:NgramDrafter",
        honours=("ngram__prompt_lookup_max", "ngram__prompt_lookup_min"),
        draws=False,
        summary="prompt lookup: goes on as when the last tokens were there before",
    )
    yield Speculator(
        name="suffix",
        build="maxserve.plugins.speculation.suffix:SuffixDrafter",
        honours=(
            "suffix__max_match_length",
            "suffix__max_spec_factor",
            "suffix__min_token_prob",
            "suffix__max_cached_tokens",
        ),
        draws=False,
        summary="suffix decoding: goes on as this text and past answers mostly did",
    )
    yield Speculator(
        name="cascade",
        build="maxserve.plugins.speculation.cascade:CascadeDrafter",
        needs="maxserve.plugins.speculation.cascade:needs",
        honours=("cascade__first", "cascade__then"),
        required=("cascade__then",),
        combines=("cascade__first", "cascade__then"),
        summary="two methods: where the first proposes nothing, the second does",
    )
    yield Speculator(
        name="standalone",
        build="maxserve.plugins.speculation.standalone:StandaloneDrafter",
        needs="maxserve.plugins.speculation.standalone:needs",
        honours=("draft_model_path",),
        required=("draft_model_path",),
        summary="a smaller model of the same vocabulary, --draft-model-path",
    )
    yield Speculator(
        name="synthetic",
        build="maxserve.plugins.speculation.synthetic:SyntheticDrafter",
        honours=("synthetic__acceptance",),
        draws=False,
        summary="for benchmarks: the answer that a prompt had before, with wrong tokens in it",
    )
    yield Speculator(
        name="eagle",
        build="maxserve.plugins.speculation.eagle:build",
        needs="maxserve.plugins.speculation.eagle:needs",
        honours=("draft_model_path",),
        required=("draft_model_path",),
        summary="an EAGLE-1 or EAGLE-3 head on the target, --draft-model-path",
    )
    yield Speculator(
        name="mtp",
        build="maxserve.plugins.speculation.mtp:build",
        needs="maxserve.plugins.speculation.mtp:needs",
        honours=("draft_model_path",),
        offers="maxserve.plugins.speculation.mtp:offers",
        summary="layers of the checkpoint that predict further tokens",
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Lookup, drafts for benchmarks, the draft model, and the files that settings of it come from."""
    yield ConfigSection(
        name="ngram",
        schema="maxserve.plugins.speculation.options:NgramSettings",
        check="maxserve.plugins.speculation.options:check_ngram",
    )
    yield ConfigSection(name="suffix", schema="maxserve.plugins.speculation.options:SuffixSettings")
    yield ConfigSection(
        name="cascade",
        schema="maxserve.plugins.speculation.options:CascadeSettings",
        check="maxserve.plugins.speculation.options:check_cascade",
    )
    yield ConfigSection(name="synthetic", schema="maxserve.plugins.speculation.options:SyntheticSettings")
    yield ConfigSection(
        name="draft_model",
        schema="maxserve.plugins.speculation.options:DraftModel",
        within="draft_model",
        title="Draft model",
        prefix="draft_",
        check="maxserve.plugins.speculation.options:check_draft",
    )
    yield ConfigSection(
        name="draft_files",
        schema="maxserve.plugins.speculation.options:DraftFiles",
        within="files",
        prefix="draft_",
    )
