from __future__ import annotations

import pytest

from maxserve.core.config import PluginSection
from maxserve.core.config.catalog import catalog, limits


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("port", "from 0 to 65535"),
        ("max_length", "at least 1"),
        ("device_memory_utilization", "above 0 and at most 1"),
        ("kv_cache_page_size", "at least 16 and a multiple of 16"),
        ("host_kvcache_swap_space_gb", "above 0"),
        ("log_prefix", ""),
    ],
)
def test_ranges_in_words(name: str, words: str) -> None:
    assert limits(catalog().by_name()[name]) == words


def test_plugins_state_their_ranges_themselves(section: PluginSection) -> None:
    assert limits(catalog([section]).by_name()["shortest_first__rounds"]) == ""
