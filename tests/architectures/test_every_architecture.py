"""Every registered architecture computes what transformers computes, on a tiny model of its family; new ones too.

Nothing here knows a family: configs are made by shrinking transformers' own, checks are chosen by what a model is for.
"""

from __future__ import annotations

from maxserve.core.host import Host, PluginOptions
from maxserve.core.testing.generic import generic_checks

HOST = Host.discover(PluginOptions(autoload=False), strict=True)

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

for architecture in HOST.architectures:
    others = () if architecture.component.fallback is None else FALLBACK
    globals().update(generic_checks(architecture.component, others))


def test_no_architecture_is_left_out() -> None:
    checked = {checks.architecture for name, checks in globals().items() if name.startswith("Test")}
    assert checked == set(HOST.architectures.names())
