"""Stripe's way of writing nested parameters in a form: `line_items[0][price_data][currency]=usd`."""

import re
from typing import Any
from urllib.parse import parse_qsl

_PART = re.compile(r"\[([^\]]*)\]")
_DEPTH_MAX = 12


def decode(encoded: str) -> dict[str, Any]:
    """The parameters as nested dictionaries and lists of text. Raises ValueError for what cannot be meant."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True, max_num_fields=2_000):
        first, bracket, _ = name.partition("[")
        parts = [first, *_PART.findall(name[len(first) :])] if bracket else [name]
        if len(parts) > _DEPTH_MAX:
            raise ValueError(f"{name} is too deep")
        _put(root, parts, value)
    decoded: dict[str, Any] = _lists(root)
    return decoded


def _put(node: dict[str, Any], parts: list[str], value: str) -> None:
    for part in parts[:-1]:
        node = node.setdefault(part or str(len(node)), {})
        if not isinstance(node, dict):
            raise ValueError(f"{part} is a value and has members")
    node[parts[-1] or str(len(node))] = value


def _lists(node: Any) -> Any:
    """Dictionaries whose keys are 0, 1, 2 … are lists."""
    if not isinstance(node, dict):
        return node
    members = {key: _lists(value) for key, value in node.items()}
    if members and list(members) == [str(index) for index in range(len(members))]:
        return list(members.values())
    return members
