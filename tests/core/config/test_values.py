from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from maxserve.core.config.values import TASKS, Shape, Task, items, read_bool, read_int, read_json, read_str, shape_of


@pytest.mark.parametrize(
    ("annotation", "shape"),
    [
        (int, Shape(scalar=int)),
        (float | None, Shape(scalar=float, optional=True)),
        (tuple[str, ...], Shape(scalar=str, many=True)),
        (list[int] | None, Shape(scalar=int, many=True, optional=True)),
        (dict[str, Any], Shape(scalar=dict)),
        (Annotated[bool, "a note"], Shape(scalar=bool)),
        (Task, Shape(scalar=str, reader=TASKS)),
        (Task | None, Shape(scalar=str, reader=TASKS, optional=True)),
    ],
)
def test_the_shape_of_an_annotation(annotation: Any, shape: Shape) -> None:
    assert shape_of(annotation) == shape


def test_a_literal_becomes_a_choice() -> None:
    shape = shape_of(Literal["soft", "hard"] | None)
    assert shape.optional
    assert shape.read("HARD") == "hard"
    with pytest.raises(ValueError, match="soft, hard"):
        shape.read("medium")


@pytest.mark.parametrize("annotation", [int | str, tuple[int, str], list[list[int]], Path, Literal[1, 2], set[str]])
def test_what_no_option_can_spell_is_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match="cannot be an option"):
        shape_of(annotation)


@pytest.mark.parametrize("text", ["true", "YES", "on", "1", True])
def test_on(text: object) -> None:
    assert read_bool(text) is True


@pytest.mark.parametrize("text", ["false", "No", "off", "0", False])
def test_off(text: object) -> None:
    assert read_bool(text) is False


@pytest.mark.parametrize(
    ("read", "value"),
    [(read_bool, "perhaps"), (read_int, "1.5"), (read_int, 1.5), (read_int, True), (read_str, 5), (read_json, "[1]")],
)
def test_values_of_another_type_are_refused(read: Any, value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        read(value)


def test_lists_come_as_lists_json_or_commas() -> None:
    assert items(["a,b"]) == ["a,b"]
    assert items("a, b,") == ["a", "b"]
    assert items('["a,b", "c"]') == ["a,b", "c"]
    assert items(5) == [5]
    with pytest.raises(ValueError, match="JSON list"):
        items("[a")


def test_nothing_is_a_value_only_where_unset_is_one() -> None:
    assert Shape(scalar=int, optional=True).read(None) is None
    with pytest.raises(ValueError, match="no value"):
        Shape(scalar=int).read(None)


def test_broken_json_says_so() -> None:
    with pytest.raises(ValueError, match="JSON object"):
        read_json("{bad")
    assert read_json('{"a": 1}') == {"a": 1}
