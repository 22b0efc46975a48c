"""Secrets that nobody configured: made once, kept in a file of the data folder that only its owner reads."""

import json
import os
import secrets
from pathlib import Path

from gateway.embedded.data_folder import write_private
from gateway.embedded.errors import EmbeddedError

NAMES = ("key_pepper", "media_signing_key", "key_encryption_key")
ADDED_LATER = "key_encryption_key"
SECRET_BYTES = 32


def kept_secrets(path: Path) -> dict[str, str]:
    """The secrets of the file at `path` by their settings' names, made with it where it is missing.

    Raises:
        EmbeddedError: the file is there but cannot be used; making them anew would make every key invalid.
    """
    if not path.exists():
        _write(path, {name: secrets.token_urlsafe(SECRET_BYTES) for name in NAMES})
    found = read_secrets(path)
    assert found is not None, "the file was there or was made"
    return found


def read_secrets(path: Path) -> dict[str, str] | None:
    """The secrets of the file at `path`, None where there is none. Raises EmbeddedError for a file that is unusable."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if ADDED_LATER not in found:  # the file of an older release, in which nothing depends on this one yet
            _write(path, found := {**found, ADDED_LATER: secrets.token_urlsafe(SECRET_BYTES)})
        return {name: str(found[name]) for name in NAMES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise EmbeddedError(
            f"The secrets in {os.fspath(path)} cannot be read ({reason}). Keys and links depend on them: restore the "
            "file from a backup, or remove it and make new keys."
        ) from error


def _write(path: Path, made: dict[str, str]) -> None:
    fresh = path.with_suffix(".new")
    write_private(fresh, json.dumps(made))
    fresh.replace(path)
