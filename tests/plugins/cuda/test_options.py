from __future__ import annotations

import pytest

from maxserve.plugins.cuda.options import TextSwitch


@pytest.mark.parametrize(
    ("text", "on"), [("false", False), ("OFF", False), ("0", False), ("no", False), ("vendor", True)]
)
def test_a_text_switch_is_on_unless_it_says_off(text: str, on: bool) -> None:
    assert TextSwitch().read(text) is on
