import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tenants.key_format import BASE62, KEY_PATTERN, KeyKind, Peppers, generate, hint, is_well_formed

PEPPER = "p" * 32


@pytest.mark.parametrize(("kind", "prefix"), [(KeyKind.LIVE, "sk-aig-"), (KeyKind.ADMIN, "ak-aig-")])
def test_a_key_shows_its_kind_and_has_56_characters(kind: KeyKind, prefix: str) -> None:
    key = generate(kind)
    assert re.fullmatch(prefix + "[0-9A-Za-z]{49}", key)
    assert is_well_formed(key)


def test_keys_differ() -> None:
    assert len({generate(KeyKind.LIVE) for _ in range(1000)}) == 1000


@given(position=st.integers(0, 55), character=st.sampled_from(BASE62 + "-_ é"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    key = generate(KeyKind.LIVE)
    typo = key[:position] + character + key[position + 1 :]
    assert is_well_formed(typo) == (typo == key)


@given(st.text(max_size=70))
def test_any_text_may_be_asked(text: str) -> None:
    assert not is_well_formed(text)


def test_a_key_is_found_in_a_log() -> None:
    key = generate(KeyKind.ADMIN)
    found = KEY_PATTERN.search(f'{{"authorization": "Bearer {key}"}}')
    assert found is not None
    assert found.group() == key


def test_the_hint_gives_only_prefix_and_last_four() -> None:
    key = generate(KeyKind.LIVE)
    assert hint(key) == "sk-aig-…" + key[-4:]


def test_a_hash_depends_on_the_pepper() -> None:
    key = generate(KeyKind.LIVE)
    old, new = Peppers([PEPPER]), Peppers(["q" * 32, PEPPER])
    assert len(old.digest(key)) == 32
    assert new.digest(key) != old.digest(key)
    assert new.digests(key) == [new.digest(key), old.digest(key)]
    assert new.current_id != old.current_id


@pytest.mark.parametrize("peppers", [[], ["short"], [PEPPER, "short"], [PEPPER] * 3])
def test_unusable_peppers_are_refused_at_start(peppers: list[str]) -> None:
    with pytest.raises(ValueError, match="pepper"):
        Peppers(peppers)
