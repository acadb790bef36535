"""What does docs/fields.md say? The page is made from the bodies, the samplers and the list of what is refused.

`python -m maxserve.plugins.api.openai.document > docs/fields.md` renews it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from maxserve.config import catalog
from maxserve.interfaces.sampler import Sampler
from maxserve.loading import request_params
from maxserve.plugins.api.common.bodies import ChatBody, TextBody
from maxserve.plugins.api.common.constraint_fields import ConstraintFields
from maxserve.plugins.api.common.sampler_fields import SamplerFields
from maxserve.plugins.api.common.unsupported import UNSUPPORTED
from maxserve.plugins.api.openai.completion_body import CompletionBody
from maxserve.registry import Host, PluginHost, PluginOptions

INTRODUCTION = """\
# Fields of requests

<!-- Made by `python -m maxserve.plugins.api.openai.document`; change the bodies, samplers, unsupported fields. -->

What `/v1/chat/completions` and `/v1/completions` do with a field; [http_apis.md](http_apis.md) says how those of other
routes become these. A field with a wrong value is refused with 400, whose `param` names it. What stands in no table is
unknown: the answer comes, and its `warnings` name the field; with `--strict-fields` it is refused. Samplers of plugins
bring their own fields, which are then honoured on every route. `GET /v1/models/NAME` lists what a server honours.
"""
HONOURED = """\
## Honoured

| Field | Chat | Completions | What it does |
|---|---|---|---|
"""
REFUSED = """\
## Refused

With 400 and the code `unsupported_parameter`, but for the values that ask for nothing.

| Field | Accepted all the same |
|---|---|
"""
YES, NO = "honoured", "refused"
_OPTIONS = {"echo": "--no-enable-echo", "prompt_logprobs": "--no-enable-variable-logits"}


def built_in_host() -> Host:
    """The plugins that come with maxserve, whatever is installed beside it."""
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def document(host: Host) -> str:
    samplers = SamplerFields(request_params(host))
    rows = [*_body_rows(), *_sampler_rows(host, samplers)]
    refused = [f"| `{name}` | {_accepted(name)} |\n" for name in sorted(UNSUPPORTED)]
    return "\n".join([INTRODUCTION, HONOURED + "".join(sorted(rows)), REFUSED + "".join(refused)])


def _body_rows() -> Iterator[str]:
    fields: Mapping[str, FieldInfo] = {**CompletionBody.model_fields, **ChatBody.model_fields}
    for name, field in fields.items():
        chat, completions = (
            YES if name in body.model_fields else _elsewhere(name) for body in (ChatBody, CompletionBody)
        )
        yield _row(name, chat, completions, field.description or "", _switch(name))


def _elsewhere(name: str) -> str:
    """What a route does with a field that only the other one has."""
    return NO if name in UNSUPPORTED else "warned of"


def _switch(name: str) -> str:
    if name in ConstraintFields.model_fields and name not in TextBody.__annotations__:
        return "--no-enable-structured-output"
    return _OPTIONS.get(name, "")


def _sampler_rows(host: Host, samplers: SamplerFields) -> Iterator[str]:
    options = catalog(host.plugin_sections()).by_path()
    for name, owner in samplers.owners.items():
        sampler: Sampler = host.samplers.get(owner).component
        off = options[sampler.switch].off_flag if sampler.switch else ""
        yield _row(name, YES, YES, sampler.summary, off)


def _row(name: str, chat: str, completions: str, text: str, switch: str) -> str:
    refusal = f"; refused with `{switch}`" if switch else ""
    return f"| `{name}` | {chat} | {completions} | {text}{refusal} |\n"


def _accepted(name: str) -> str:
    values = UNSUPPORTED[name].values
    return ", ".join(f"`{json.dumps(value)}`" for value in values) or "nothing"


if __name__ == "__main__":
    sys.stdout.write(document(built_in_host()))
