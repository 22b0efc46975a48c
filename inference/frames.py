"""A frame: one JSON header and binary blobs behind it, unencoded, in network byte order.

    4 bytes   magic "SAM3"
    1 byte    version
    1 byte    kind: task, result or error
    4 bytes   length of the header in bytes
    header    JSON; its member "blobs" lists the lengths of what follows, in bytes
    blobs     back to back, nothing after them

Reading is strict: unknown or missing members, wrong types, lengths that do not add up and sizes over the bounds raise
`WireError`. Blobs are referred to by their index. What the headers mean is in inference/wire.py.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

HEADER_BYTES_MAX = 4 * 1024 * 1024
BLOBS_MAX = 64

_MAGIC = b"SAM3"
_VERSION = 1
_PREFIX = struct.Struct("!4sBBI")

_T = TypeVar("_T")
_Choice = TypeVar("_Choice", bound=StrEnum)


class FrameKind(IntEnum):
    """What a frame carries."""

    TASK = 1
    RESULT = 2
    ERROR = 3


class WireError(ValueError):
    """The bytes are not a frame of the expected kind; the message says where they depart from it."""


def encode_frame(kind: FrameKind, header: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
    """The bytes of a frame; `header` gains its member "blobs". Raises ValueError for numbers JSON has no form for."""
    header["blobs"] = [len(blob) for blob in blobs]
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return b"".join((_PREFIX.pack(_MAGIC, _VERSION, kind, len(encoded)), encoded, *blobs))


@dataclass(slots=True)
class Members:
    """A JSON object that has to be read completely."""

    values: dict[str, Any]
    where: str
    blobs: Sequence[bytes] = field(default_factory=tuple)

    def take(self, name: str, kind: type[_T]) -> _T:
        """The member `name`, which must be of `kind`; an int passes for a float, a bool for neither."""
        if name not in self.values:
            raise WireError(f"{self.where} lacks '{name}'")
        value = self.values.pop(name)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise WireError(f"{self.where}.{name} is not of type {kind.__name__}")
        return value

    def take_optional(self, name: str, kind: type[_T]) -> _T | None:
        """As `take`, or None where the member is null."""
        if name in self.values and self.values[name] is None:
            del self.values[name]
            return None
        return self.take(name, kind)

    def take_choice(self, name: str, choices: type[_Choice]) -> _Choice:
        """The member `name`, which must be one of `choices`."""
        value = self.take(name, str)
        try:
            return choices(value)
        except ValueError as error:
            raise WireError(f"{self.where}.{name}: {error}") from error

    def take_object(self, name: str) -> "Members":
        return Members(self.take(name, dict), f"{self.where}.{name}", self.blobs)

    def take_list(self, name: str, length_max: int) -> list["Members"]:
        items = self.take(name, list)
        if len(items) > length_max:
            raise WireError(f"{self.where}.{name} has more than {length_max} items")
        if not all(isinstance(item, dict) for item in items):
            raise WireError(f"{self.where}.{name} holds something else than objects")
        return [Members(item, f"{self.where}.{name}[{i}]", self.blobs) for i, item in enumerate(items)]

    def take_blob(self, name: str) -> bytes:
        index = self.take(name, int)
        if not 0 <= index < len(self.blobs):
            raise WireError(f"{self.where}.{name} refers to no blob")
        return self.blobs[index]

    def take_optional_blob(self, name: str) -> bytes | None:
        """As `take_blob`, or None where the member is null."""
        if self.values.get(name) is None:
            return self.take_optional(name, bytes)
        return self.take_blob(name)

    def end(self) -> None:
        if self.values:
            raise WireError(f"{self.where} has unknown members: {', '.join(sorted(self.values))[:200]}")


def decode_frame(data: bytes, expected: FrameKind, bytes_max: int) -> Members:
    """The header of a frame of the `expected` kind, with its blobs. Raises WireError."""
    start = _check_prefix(data, expected, bytes_max)
    try:
        header = json.loads(data[_PREFIX.size : start], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError("header is not JSON") from error
    if not isinstance(header, dict):
        raise WireError("header is not an object")
    members = Members(header, "frame")
    lengths = members.take("blobs", list)
    if len(lengths) > BLOBS_MAX or not all(type(n) is int and n >= 0 for n in lengths):
        raise WireError("blob lengths are not a short list of whole numbers")
    if start + sum(lengths) != len(data):
        raise WireError("blob lengths do not add up to the frame")
    blobs = []
    for length in lengths:
        blobs.append(data[start : start + length])
        start += length
    members.blobs = blobs
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_prefix(data: bytes, expected: FrameKind, bytes_max: int) -> int:
    """Where the header ends."""
    if len(data) > bytes_max:
        raise WireError(f"frame of more than {bytes_max} bytes")
    if len(data) < _PREFIX.size:
        raise WireError("frame shorter than its prefix")
    magic, version, kind, header_bytes = _PREFIX.unpack_from(data)
    start = _PREFIX.size + int(header_bytes)
    if magic != _MAGIC or version != _VERSION:
        raise WireError("not a frame of this version")
    if kind != expected:
        raise WireError(f"frame of kind {kind} where {expected.name.lower()} was expected")
    if header_bytes > HEADER_BYTES_MAX or start > len(data):
        raise WireError("header longer than allowed or than the frame")
    return start
