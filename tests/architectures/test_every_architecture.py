"""Every registered architecture computes what transformers computes, on a tiny model of its family; new ones too.

Nothing here knows a family: configs are made by shrinking transformers' own, checks are chosen by what a model is for.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.testing.generic import generic_checks

HOST = PluginHost.discover(PluginOptions(autoload=False), strict=True)

# Of the one that runs whatever no other is written for: families that were not thought of when it was written.
FALLBACK = (
    "ApertusForCausalLM",
    "ArceeForCausalLM",
    "CohereForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "Glm4ForCausalLM",
    "GraniteMoeForCausalLM",
    "HeliumForCausalLM",
    "NemotronForCausalLM",
    "PhiForCausalLM",
    "SmolLM3ForCausalLM",
    "StableLmForCausalLM",
    "Starcoder2ForCausalLM",
)

# A vision-language model is compared together with its processor, which only its family knows.
VISION_LANGUAGE = {entry.name for entry in HOST.architectures if entry.component.images is not None}
# These transformers has by other names, and their tests write checkpoints under those of their authors.
RENAMED = {"ExaoneForCausalLM"}
# Those that run code of their own, which is another family's but for layers that draft.
OTHERWISE = {"MiMoForCausalLM"}
# What the oldest transformers that is supported does not have yet.
LATER = {name for name in ("DeepseekV32ForCausalLM",) if not hasattr(transformers, name)}

for architecture in HOST.architectures:
    if architecture.name in VISION_LANGUAGE | RENAMED | OTHERWISE | LATER:
        continue
    others = () if architecture.component.fallback is None else FALLBACK
    globals().update(generic_checks(architecture.component, others))


def test_no_architecture_is_left_out() -> None:
    checked = {checks.architecture for name, checks in globals().items() if name.startswith("Test")}
    pages = "".join(page.read_text() for page in Path(__file__).parent.glob("test_*.py"))
    elsewhere = {
        name for name in VISION_LANGUAGE | RENAMED | OTHERWISE | LATER if f'    architecture = "{name}"\n' in pages
    }
    assert checked | elsewhere == set(HOST.architectures.names())


def test_what_cannot_be_checked_by_its_name_is_named() -> None:
    vision = Architecture(name="Acme", build="x:y", images="x:z")
    with pytest.raises(LookupError, match="Acme takes images: subclass VisionChecks"):
        generic_checks(vision)
    with pytest.raises(LookupError, match="no checks are known for the task 'song' of Acme"):
        generic_checks(Architecture(name="Acme", build="x:y", task="song"))
    with pytest.raises(LookupError, match="has no model class 'AcmeForCausalLM'"):
        generic_checks(Architecture(name="AcmeForCausalLM", build="x:y"))
