"""Give multipart forms back the shape that JSON would have had.

Clients of the OpenAI SDK send nested values flattened with brackets: `tags[]`, `mask[style]`, `box_prompts[][x_min]`.
A list of objects arrives either row by row or key by key, so the i-th value of each key belongs to the i-th row; that
holds only if every row has the same keys.
"""

import json
import re
from collections.abc import Iterable

from gateway.refusals import RequestInvalid

Field = str | bytes | int | float | bool | None | list["Field"] | dict[str, "Field"]

_NAME = re.compile(r"([A-Za-z0-9_]{1,64})(\[\])?(?:\[([A-Za-z0-9_]{1,64})\])?")


def rebuild(items: Iterable[tuple[str, str | bytes]], *, json_fields: frozenset[str]) -> dict[str, Field]:
    """Nested fields from flat ones; values of `json_fields` that are JSON text are parsed.

    Raises RequestInvalid for names that are not of the three forms, mixed use of one name, keys sent twice, and rows
    that cannot be paired.
    """
    plain: dict[str, list[str | bytes]] = {}
    lists: dict[str, list[Field]] = {}
    objects: dict[str, dict[str, Field]] = {}
    rows: dict[str, dict[str, list[str | bytes]]] = {}
    for name, value in items:
        match = _NAME.fullmatch(name)
        if match is None:
            raise RequestInvalid(f"The form field '{name[:80]}' has a name that is not understood.", param=name[:80])
        field, is_list, key = match.groups()
        if is_list and key:
            rows.setdefault(field, {}).setdefault(key, []).append(value)
        elif is_list:
            lists.setdefault(field, []).append(value)
        elif key:
            if key in objects.setdefault(field, {}):
                raise RequestInvalid(f"The field '{name}' was sent twice.", param=field)
            objects[field][key] = value
        else:
            plain.setdefault(field, []).append(value)

    form: dict[str, Field] = {}
    for field, values in plain.items():
        parsed = [_parse_json(field, text) if field in json_fields else text for text in values]
        form[field] = parsed[0] if len(parsed) == 1 else parsed
    paired = {field: _pair(field, columns) for field, columns in rows.items()}
    nested: list[tuple[str, Field]] = [*lists.items(), *objects.items(), *paired.items()]
    for field, content in nested:
        if field in form:
            raise RequestInvalid(f"The field '{field}' was sent in two different forms.", param=field)
        form[field] = content
    return form


def _parse_json(field: str, value: str | bytes) -> Field:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        parsed: Field = json.loads(value)
    except (ValueError, RecursionError):
        raise RequestInvalid(
            f"The field '{field}' starts like JSON but cannot be parsed as JSON.", param=field
        ) from None
    return parsed


def _pair(field: str, columns: dict[str, list[str | bytes]]) -> Field:
    counts = {len(values) for values in columns.values()}
    if len(counts) != 1:
        raise RequestInvalid(
            f"The rows of '{field}' have different keys, which a multipart form cannot express. "
            f"Send '{field}' as one JSON string instead.",
            param=field,
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
