"""Fields at fault by the names that they have in another dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from maxserve.http import Failure

NOT_HERE = "unknown_parameter"  # the code of a failure whose field goes by the name it was given


def renamed(failure: Failure, names: Mapping[str, str]) -> Failure:
    """`failure` in another dialect: the field at fault, if it is or lies in one of `names`, goes by its name there."""
    param = failure.param or ""
    old = next((name for name in names if param == name or param.startswith((f"{name}.", f"{name}["))), None)
    if old is None or failure.code == NOT_HERE:
        return failure
    message = re.sub(rf"\b{re.escape(old)}\b", names[old], failure.message)
    return replace(failure, param=names[old] + param.removeprefix(old), message=message)
