"""Multipart forms become what the client had before it flattened it, in both orders that clients use."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forms import rebuild
from gateway.refusals import RequestInvalid

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12)
VALUES = st.text(max_size=20).filter(lambda text: text.lstrip()[:1] not in ("[", "{"))
ROWS = st.lists(NAMES, min_size=1, max_size=4, unique=True).flatmap(
    lambda keys: st.lists(st.fixed_dictionaries(dict.fromkeys(keys, VALUES)), min_size=1, max_size=5)
)
FORMS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    NAMES,
    VALUES | st.lists(VALUES, min_size=1, max_size=5) | st.dictionaries(NAMES, VALUES, min_size=1, max_size=4) | ROWS,
    max_size=6,
)

Items = Iterator[tuple[str, str | bytes]]


def flattened(form: dict[str, Any], *, by_key: bool) -> Items:
    """The fields that a client sends: the Python package groups a list's rows by key, the one for Node does not."""
    for name, value in form.items():
        if isinstance(value, dict):
            yield from ((f"{name}[{key}]", text) for key, text in value.items())
        elif isinstance(value, list) and isinstance(value[0], dict):
            cells = (
                ((key, row[key]) for key in value[0] for row in value)
                if by_key
                else ((key, text) for row in value for key, text in row.items())
            )
            yield from ((f"{name}[][{key}]", text) for key, text in cells)
        elif isinstance(value, list):
            yield from ((f"{name}[]", text) for text in value)
        else:
            yield name, value


@given(form=FORMS, by_key=st.booleans())
def test_nested_fields_come_back_as_they_were(form: dict[str, Any], by_key: bool) -> None:
    assert rebuild(flattened(form, by_key=by_key), json_fields=frozenset()) == form


@given(form=FORMS)
def test_both_orders_give_the_same(form: dict[str, Any]) -> None:
    in_one, in_other = (rebuild(flattened(form, by_key=order), json_fields=frozenset()) for order in (True, False))
    assert in_one == in_other


@given(rows=ROWS, name=NAMES, blanks=st.sampled_from(["", " ", "\n\t"]))
def test_json_text_says_the_same_as_flat_fields(rows: list[dict[str, str]], name: str, blanks: str) -> None:
    sent: list[tuple[str, str | bytes]] = [(name, blanks + json.dumps(rows))]
    assert rebuild(sent, json_fields=frozenset({name})) == {name: rows}
    assert rebuild(sent, json_fields=frozenset()) == {name: blanks + json.dumps(rows)}


@given(rows=ROWS.filter(lambda rows: len(rows) > 1 and len(rows[0]) > 1), by_key=st.booleans(), data=st.data())
def test_rows_with_different_keys_are_refused_rather_than_mispaired(
    rows: list[dict[str, str]], by_key: bool, data: st.DataObject
) -> None:
    items = list(flattened({"points": rows}, by_key=by_key))
    items.pop(data.draw(st.integers(0, len(items) - 1)))
    with pytest.raises(RequestInvalid, match="one JSON string") as raised:
        rebuild(items, json_fields=frozenset())
    assert raised.value.param == "points"


@pytest.mark.parametrize("files", [1, 2, 3])
def test_repeated_names_are_a_list_and_bytes_stay_bytes(files: int) -> None:
    pictures = [b'{"not": "parsed"}' + bytes([number]) for number in range(files)]
    plain = rebuild([("image", picture) for picture in pictures], json_fields=frozenset({"image"}))
    assert plain == {"image": pictures[0] if files == 1 else pictures}
    assert rebuild([("image[]", picture) for picture in pictures], json_fields=frozenset()) == {"image": pictures}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "[]",
        "[x]",
        "a[",
        "a]",
        "a[]]",
        "a[[]]",
        "a[][]",
        "a[b][c]",
        "a[][b][c]",
        "a[b][]",
        "a[]b",
        "a.b",
        "a b",
        "a\n",
        "a[b\n]",
        "a\x00",
        "../a",
        "a[__proto__.x]",
        "é",
        "n" * 65,
        f"a[{'n' * 65}]",
        "[" * 100_000,
    ],
    ids=lambda name: repr(name[:12]),
)
def test_hostile_names_are_refused_in_a_short_sentence(name: str) -> None:
    with pytest.raises(RequestInvalid) as raised:
        rebuild([(name, "1")], json_fields=frozenset())
    assert len(raised.value.message) < 200
    assert len(raised.value.param or "") <= 80


@pytest.mark.parametrize("other", ["a[]", "a[b]", "a[][b]"])
def test_one_name_in_two_forms_is_refused(other: str) -> None:
    for first, second in (("a", other), (other, "a")):
        with pytest.raises(RequestInvalid, match="two different forms") as raised:
            rebuild([(first, "1"), (second, "2")], json_fields=frozenset())
        assert raised.value.param == "a"


@pytest.mark.parametrize("other", ["a[b]", "a[][b]"])
def test_a_list_and_an_object_of_one_name_are_refused(other: str) -> None:
    with pytest.raises(RequestInvalid, match="two different forms"):
        rebuild([("a[]", "1"), (other, "2")], json_fields=frozenset())


def test_a_key_of_an_object_sent_twice_is_refused() -> None:
    with pytest.raises(RequestInvalid) as raised:
        rebuild([("mask[style]", "cutout"), ("mask[style]", "overlay")], json_fields=frozenset())
    assert raised.value.param == "mask"


@pytest.mark.parametrize("text", ['[{"x": 1}', "{x: 1}", "[1,]", "[" * 50_000, '{"x": 1} {"x": 2}'])
def test_text_that_only_begins_like_json_is_refused(text: str) -> None:
    with pytest.raises(RequestInvalid, match="cannot be parsed") as raised:
        rebuild([("point_prompts", text)], json_fields=frozenset({"point_prompts"}))
    assert raised.value.param == "point_prompts"
