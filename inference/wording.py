"""Make a provider's words fit for the customer's eyes: short, plain, and without anything secret."""

import re
from collections.abc import Sequence

CHARACTERS_MAX = 300
_SCANNED_CHARACTERS_MAX = 4_000
_HIDDEN = "[hidden]"
# Keys as the providers write them, credentials after a scheme, and what follows the ? of a URL (signatures).
_SECRETS = re.compile(
    r"(?i)\b(?:sk|ak|pk|whsec|key)[-_][a-z0-9_\-]{8,}"
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}:[0-9a-f]{16,}"
    r"|\b(?:bearer|key|basic|token)\s+[a-z0-9._~+/\-]{12,}=*"
    r"|\b[a-z0-9_\-]{40,}\b"
)
_USERINFO = re.compile(r"(?i)(https?://)[^\s/@]+@")
_QUERY = re.compile(r"(?i)(https?://[^\s?#\"']+)[?#][^\s\"']*")


def clean(text: str, *, secrets: Sequence[str] = ()) -> str:
    """`text` on one line, at most 300 characters, without `secrets`, keys, tokens and the queries of URLs."""
    text = text[:_SCANNED_CHARACTERS_MAX]
    for secret in secrets:
        for part in (secret, *secret.split(":")):
            if len(part) >= 4:
                text = text.replace(part, _HIDDEN)
    text = _SECRETS.sub(_HIDDEN, _QUERY.sub(r"\1", _USERINFO.sub(r"\1", text)))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= CHARACTERS_MAX else f"{text[: CHARACTERS_MAX - 1]}…"
