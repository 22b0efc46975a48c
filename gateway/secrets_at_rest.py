"""Secrets that have to be read back: sealed in an envelope, so that a stolen database opens none of them.

Each secret is encrypted under a random data key of its own (AES-256-GCM), and that key under the key-encryption key
from the settings. Both name the organization, the provider and the record as associated data: a row that was copied
to another organization, or edited, does not open. Changing the key-encryption key rewraps the data keys only.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_CHARACTERS_MINIMUM = 32
KEYS_MAXIMUM = 2
_KEY_BYTES = 32
_NONCE_BYTES = 12  # random; every data key encrypts once, and a key-encryption key far fewer than 2**32 data keys
_VERSION = b"sam3 provider credential 1"


class SecretUnreadable(Exception):
    """The envelope does not open: made under another key, damaged, or moved to another record."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose secret it is; part of what is authenticated."""

    organization_id: UUID
    provider: str
    record_id: UUID

    @property
    def associated_data(self) -> bytes:
        """The three, each after its length, so that no two owners look alike."""
        parts = (_VERSION, self.organization_id.bytes, self.provider.encode(), self.record_id.bytes)
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored: which key wrapped the data key, the wrapped data key, and the secret under it."""

    key_id: str
    wrapped_key: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


class Vault:
    """Seals and opens with the key-encryption keys in force: the current one, and the one before during a change."""

    def __init__(self, keys: Sequence[str]) -> None:
        """One or two texts of at least 32 random characters, the current one first. Raises ValueError."""
        if not 1 <= len(keys) <= KEYS_MAXIMUM:
            raise ValueError(f"there must be 1 to {KEYS_MAXIMUM} key-encryption keys, not {len(keys)}")
        if any(len(key) < KEY_CHARACTERS_MINIMUM for key in keys):
            raise ValueError(f"a key-encryption key needs at least {KEY_CHARACTERS_MINIMUM} characters")
        self._keys = {_derived(key, b"key id")[:4].hex(): AESGCM(_derived(key, b"wrapping")) for key in keys}
        self.current_id = next(iter(self._keys))
        """Tells wrapped keys of different key-encryption keys apart; reveals nothing about them."""

    def seal(self, secret: str, owner: Owner) -> Sealed:
        """An envelope that only opens for the same owner."""
        data_key = secrets.token_bytes(_KEY_BYTES)
        return Sealed(
            self.current_id,
            _encrypt(self._keys[self.current_id], data_key, owner),
            _encrypt(AESGCM(data_key), secret.encode(), owner),
        )

    def open(self, sealed: Sealed, owner: Owner) -> str:
        """The secret. Raises SecretUnreadable."""
        return _decrypt(AESGCM(self._data_key(sealed, owner)), sealed.ciphertext, owner).decode()

    def rewrap(self, sealed: Sealed, owner: Owner) -> Sealed:
        """The same secret with its data key under the current key; the secret itself is not touched.

        Raises SecretUnreadable.
        """
        data_key = self._data_key(sealed, owner)
        return Sealed(self.current_id, _encrypt(self._keys[self.current_id], data_key, owner), sealed.ciphertext)

    def _data_key(self, sealed: Sealed, owner: Owner) -> bytes:
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise SecretUnreadable("this secret was sealed under a key that is not in the settings")
        return _decrypt(key, sealed.wrapped_key, owner)


def _derived(key: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_VERSION + b" " + purpose).derive(key.encode())


def _encrypt(cipher: AESGCM, data: bytes, owner: Owner) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, owner.associated_data)


def _decrypt(cipher: AESGCM, data: bytes, owner: Owner) -> bytes:
    try:
        return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], owner.associated_data)
    except (InvalidTag, ValueError):
        raise SecretUnreadable("this secret was changed, or belongs to another record") from None
