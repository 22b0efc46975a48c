"""The envelope around customers' provider keys."""

from dataclasses import replace
from uuid import uuid4

import pytest

from gateway.secrets_at_rest import Owner, SecretUnreadable, Vault

KEY = "a key-encryption key of more than 32 characters"
OTHER = "another key-encryption key of more than 32 characters"
OWNER = Owner(uuid4(), "fal", uuid4())


def test_what_was_sealed_opens_and_looks_different_each_time() -> None:
    vault = Vault([KEY])
    first, second = vault.seal("secret", OWNER), vault.seal("secret", OWNER)
    assert vault.open(first, OWNER) == vault.open(second, OWNER) == "secret"
    assert first.ciphertext != second.ciphertext
    assert b"secret" not in first.ciphertext + first.wrapped_key
    assert "ciphertext" not in repr(first)


@pytest.mark.parametrize(
    "thief",
    [replace(OWNER, organization_id=uuid4()), replace(OWNER, provider="openai"), replace(OWNER, record_id=uuid4())],
)
def test_it_opens_for_nobody_else(thief: Owner) -> None:
    vault = Vault([KEY])
    sealed = vault.seal("secret", OWNER)
    for action in (vault.open, vault.rewrap):
        with pytest.raises(SecretUnreadable):
            action(sealed, thief)


def damaged(data: bytes) -> list[bytes]:
    return [bytes([data[0] ^ 1]) + data[1:], data[:-1] + bytes([data[-1] ^ 1]), data[:5], b""]


def test_a_flipped_bit_or_a_cut_is_noticed() -> None:
    vault = Vault([KEY])
    sealed = vault.seal("secret", OWNER)
    changed = [replace(sealed, ciphertext=data) for data in damaged(sealed.ciphertext)]
    changed += [replace(sealed, wrapped_key=data) for data in damaged(sealed.wrapped_key)]
    for each in changed:
        with pytest.raises(SecretUnreadable):
            vault.open(each, OWNER)


def test_parts_of_two_envelopes_do_not_fit_together() -> None:
    vault = Vault([KEY])
    first, second = vault.seal("one", OWNER), vault.seal("two", OWNER)
    with pytest.raises(SecretUnreadable):
        vault.open(replace(first, ciphertext=second.ciphertext), OWNER)


def test_rewrapping_moves_to_the_new_key_without_touching_the_secret() -> None:
    old = Vault([KEY]).seal("secret", OWNER)
    new = Vault([OTHER, KEY]).rewrap(old, OWNER)
    assert (new.ciphertext, new.key_id) == (old.ciphertext, Vault([OTHER]).current_id)
    assert Vault([OTHER]).open(new, OWNER) == "secret"
    with pytest.raises(SecretUnreadable):
        Vault([OTHER]).open(old, OWNER)


@pytest.mark.parametrize("keys", [[], ["short"], [KEY, OTHER, KEY + "3"]])
def test_unusable_keys_are_refused_at_once(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key-encryption"):
        Vault(keys)
