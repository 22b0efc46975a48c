"""Words of providers on their way to customers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.wording import CHARACTERS_MAX, clean


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("The picture is too dark.", "The picture is too dark."),
        ("Bad key sk-proj-abcdefgh12345678 given", "Bad [hidden] given"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: [hidden]"),
        ("see https://x.example/a.png?sig=abc#f now", "see https://x.example/a.png now"),
        ("at https://user:pass@x.example/", "at https://x.example/"),
        ("id 0f0e0d0c-1111-2222-3333-444455556666:0123456789abcdef0123", "id [hidden]"),
        ("two\nlines\x00\x1b[31m", "two lines [31m"),
        ("", ""),
    ],
)
def test_secrets_and_control_characters_do_not_pass(said: str, shown: str) -> None:
    assert clean(said) == shown


@given(st.text(max_size=600), st.text("abcdefghij0123456789:-_", min_size=8, max_size=60))
def test_the_key_itself_never_passes(said: str, secret: str) -> None:
    shown = clean(f"{said[:50]}{secret}{said[50:]}", secrets=[secret])
    assert secret not in shown
    assert len(shown) <= CHARACTERS_MAX
    assert shown.isprintable()
