"""Results are kept whole, found only by keys of ours, and gone when their time is up."""

import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from gateway.media.signed_links import LinkSigner
from gateway.media.store import LocalStore, is_key, open_media_store
from gateway.settings import Settings

ORGANIZATION = UUID("0198c1f0-0000-7000-8000-000000000001")
NAME = "A" * 27
KEY = f"{ORGANIZATION.hex}/20260101/{NAME}.png"
SIGNER = LinkSigner(["a signing key"])


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    root = tmp_path / "media"
    root.mkdir()
    return LocalStore(root, base_url="https://gateway.test", signer=SIGNER)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def aged(folder: Path, name: str, *, days: float) -> Path:
    """A file that was written so many days ago."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))
    return path


def dated(organization: UUID, *, days: float, name: str = f"{NAME}.png") -> str:
    return f"{organization.hex}/{datetime.now(UTC) - timedelta(days=days):%Y%m%d}/{name}"


@pytest.mark.parametrize(
    ("media_type", "extension"), [("image/png", "png"), ("image/jpeg", "jpeg"), ("image/webp", "webp")]
)
async def test_what_is_put_is_got_and_nothing_else_lies_about(
    store: LocalStore, tmp_path: Path, media_type: str, extension: str
) -> None:
    key = await store.put(ORGANIZATION, b"pixels", media_type)
    assert is_key(key)
    assert key.startswith(f"{ORGANIZATION.hex}/{datetime.now(UTC):%Y%m%d}/")
    assert key.endswith(f".{extension}")
    assert await store.get(key) == b"pixels"
    assert files(tmp_path) == [f"media/{key}"]


async def test_keys_do_not_repeat_and_tell_nothing(store: LocalStore) -> None:
    keys = [await store.put(ORGANIZATION, b"same", "image/png") for _ in range(20)]
    assert len(set(keys)) == 20
    assert len({key.rpartition("/")[2][:6] for key in keys}) == 20


async def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: LocalStore, tmp_path: Path) -> None:
    key = await store.put(ORGANIZATION, b"pixels", "image/png")
    for _ in range(2):
        await store.delete(key)
        assert await store.get(key) is None
    assert files(tmp_path) == []


async def test_only_results_have_a_place(store: LocalStore, tmp_path: Path) -> None:
    for media_type in ("text/html", "image/svg+xml", "image/gif", "", "image/png; charset=x"):
        with pytest.raises(ValueError, match="results are not of type"):
            await store.put(ORGANIZATION, b"<script>", media_type)
    assert files(tmp_path) == []


async def test_a_write_that_fails_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "media" / ORGANIZATION.hex).write_bytes(b"in the way")
    with pytest.raises(OSError, match="Not a directory"):
        await store.put(ORGANIZATION, b"pixels", "image/png")
    assert files(tmp_path) == [f"media/{ORGANIZATION.hex}"]


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "../secret.png", "/etc/passwd", "..", f"../{KEY}", f"/{KEY}", f"{KEY}/", f"{KEY}\0", f"{KEY}\n",
        f" {KEY}", f"{KEY}/../secret", f"{ORGANIZATION.hex}/20260101/../../../secret.png", KEY.replace("png", "html"),
        KEY.replace("png", "part"), KEY.replace("/", "\\"), KEY.replace("/", "//"), KEY.replace(NAME, NAME + "A"),
        KEY.replace(NAME, "A" * 26 + "."), KEY.replace(NAME, "A" * 26 + "é"), KEY.replace("20260101", "2026010１"),
        KEY.replace(ORGANIZATION.hex, ORGANIZATION.hex.upper().replace("0", "A")), "\0" * 10, "a" * 100_000,
    ],
    ids=lambda key: ascii(key)[:40],
)  # fmt: skip
async def test_keys_that_are_not_ours_never_touch_the_disk(store: LocalStore, tmp_path: Path, key: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    assert not is_key(key)
    assert await store.get(key) is None
    await store.delete(key)
    assert secret.read_bytes() == b"secret"


async def test_the_sweep_takes_what_is_old_and_leaves_what_is_not(store: LocalStore, tmp_path: Path) -> None:
    root, other = tmp_path / "media", uuid4()
    old = [
        aged(root, dated(ORGANIZATION, days=3), days=3),
        aged(root, dated(other, days=2, name=f"{'B' * 27}.webp"), days=2),
        aged(root, dated(other, days=2, name=f"{'C' * 27}.part"), days=2),
        aged(root, dated(ORGANIZATION, days=1, name=f"{'D' * 27}.jpeg"), days=1.01),
    ]
    young = [
        aged(root, dated(ORGANIZATION, days=0), days=0),
        aged(root, dated(ORGANIZATION, days=1), days=0.5),
        aged(root, dated(other, days=2, name=f"{'E' * 27}.png"), days=0.9),  # a clock was wrong: the file's time counts
    ]
    removed = await store.sweep(datetime.now(UTC) - timedelta(days=1))
    assert removed == len(old)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in young)
    assert not old[0].parent.exists(), "an old day that is empty goes too"
    assert young[0].parent.exists()


async def test_the_sweep_reads_any_time_zone(store: LocalStore, tmp_path: Path) -> None:
    old = aged(tmp_path / "media", dated(ORGANIZATION, days=2), days=2)
    far_east = timezone(timedelta(hours=14))
    assert await store.sweep((datetime.now(UTC) - timedelta(days=1)).astimezone(far_east)) == 1
    assert not old.exists()


async def test_the_sweep_leaves_alone_what_is_not_ours(store: LocalStore, tmp_path: Path) -> None:
    root, day = tmp_path / "media", f"{ORGANIZATION.hex}/20200101"
    foreign = [
        aged(root, name, days=900)
        for name in (
            "README", "documents/2020/tax.pdf", "documents/20200101/tax.png", f"{ORGANIZATION.hex}/note.txt",
            f"{ORGANIZATION.hex}/2020/{NAME}.png", f"{day}/tax.pdf", f"{day}/{NAME}.png.bak",
        )
    ]  # fmt: skip
    aged(root, f"{uuid4().hex}/20200101", days=900)  # a file where a folder is expected
    outside = aged(tmp_path, f"outside/{NAME}.png", days=900)
    (root / ORGANIZATION.hex / "20190101").symlink_to(outside.parent, target_is_directory=True)
    assert await store.sweep(datetime.now(UTC)) == 0
    assert all(path.exists() for path in [*foreign, outside])


async def test_one_sweep_is_bounded_and_begins_with_the_oldest(store: LocalStore, tmp_path: Path) -> None:
    root = tmp_path / "media"
    for number in range(6):
        aged(root, dated(UUID(int=number), days=10 - number), days=10 - number)
    limit = datetime.now(UTC) - timedelta(days=1)
    assert await store.sweep(limit, limit=4) == 4
    assert files(root) == [dated(UUID(int=number), days=10 - number) for number in (4, 5)]
    assert await store.sweep(limit, limit=4) == 2
    assert await store.sweep(limit, limit=4) == 0


async def test_links_lead_to_the_gateway(store: LocalStore) -> None:
    link = store.url(KEY, expires_in_seconds=60)
    assert link.startswith(f"https://gateway.test/media/{KEY}?expires=")


@pytest.mark.parametrize("address", ["s3://bucket/folder", "https://x/y", "file://host/folder", "file:", "media"])
def test_places_that_cannot_be_written_to_are_refused(address: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, media_url=address, media_signing_key=SecretStr("key"))
    with pytest.raises(ValueError, match="file:///folder"):
        open_media_store(settings, SIGNER)


async def test_the_store_lies_where_the_settings_say(tmp_path: Path) -> None:
    await open_media_store(Settings(data_dir=tmp_path), SIGNER).put(ORGANIZATION, b"1", "image/png")
    elsewhere = Settings(data_dir=tmp_path, media_url=f"file://{tmp_path}/else%20where")
    await open_media_store(elsewhere, SIGNER).put(ORGANIZATION, b"2", "image/png")
    assert sorted(name.split("/")[0] for name in files(tmp_path)) == ["else where", "media"]
    assert (tmp_path / "media").stat().st_mode & 0o077 == 0
