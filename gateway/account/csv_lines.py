"""CSV that a spreadsheet shows and does not run."""

import csv
import io
from collections.abc import Iterable, Sequence

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Number(str):
    """A number in our own notation; the only cell that may begin with a minus."""

    __slots__ = ()


def csv_lines(rows: Iterable[Sequence[str | None]]) -> str:
    """RFC 4180 lines. A text that a spreadsheet could take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, Number):
        return str(value)
    return f"'{value}" if value.startswith(_STARTS_A_FORMULA) else value
