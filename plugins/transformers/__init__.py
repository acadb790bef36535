"""Models that no architecture here is written for, run by the classes that transformers has for them."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.architecture import Architecture, WeightMap


@hookimpl
def maxserve_architectures() -> Iterable[Architecture]:
    yield Architecture(
        name="transformers",
        build="maxserve.plugins.transformers.model:Model",
        config="maxserve.plugins.transformers.spec:read",
        weights=WeightMap(renames=((r"^(?!lm\.)", "lm."),)),  # where the names of its class are here
        load="maxserve.plugins.transformers.loading:load",
        fallback="maxserve.plugins.transformers.choice:refusal",
        reads_folder=True,
        summary="any other causal model of text that transformers has a class for, or its repository brings one",
    )
