"""Results over HTTP: to whoever holds the link, in a form that no browser takes for a page of ours."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from gateway.media.signed_links import LinkSigner
from gateway.media.store import LocalStore
from gateway.results import router
from tests.pictures import picture
from tests.running import RunningProgram

PNG = picture()
SIGNER = LinkSigner(["a signing key"])


@dataclass
class MediaResources:
    """The part of the process's resources that these routes use."""

    links: LinkSigner
    media: LocalStore


@dataclass
class Served:
    """A running server of results, and what stands behind it."""

    http: httpx.Client
    store: LocalStore
    root: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("media")
    app = FastAPI()
    app.include_router(router)
    with RunningProgram(app) as program:
        store = LocalStore(root, base_url=program.base_url, signer=SIGNER)
        app.state.resources = MediaResources(SIGNER, store)
        with httpx.Client(base_url=program.base_url, trust_env=False) as http:
            yield Served(http, store, root)


async def stored(served: Served, *, media_type: str = "image/png", seconds: int = 60) -> str:
    """The link of a new result."""
    key = await served.store.put(uuid4(), PNG, media_type)
    return served.store.url(key, expires_in_seconds=seconds)


def require_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("not_found", "link_invalid")
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
async def test_a_link_gives_the_file_and_says_how_to_treat_it(served: Served, media_type: str) -> None:
    link = await stored(served, media_type=media_type)
    answer = served.http.get(link)
    assert (answer.status_code, answer.content) == (200, PNG)
    headers = answer.headers
    name = urlsplit(link).path.rpartition("/")[2]
    assert headers["content-type"] == media_type
    assert headers["content-length"] == str(len(PNG))
    assert headers["content-disposition"] == f'inline; filename="{name}"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] in {f"private, max-age={left}, immutable" for left in range(50, 61)}


async def test_head_says_the_same_without_the_file(served: Served) -> None:
    link = await stored(served)
    head, get = served.http.head(link), served.http.get(link)
    assert (head.status_code, head.content) == (200, b"")
    alike = ("content-type", "content-length", "content-disposition", "content-security-policy")
    assert [head.headers[name] for name in alike] == [get.headers[name] for name in alike]


async def test_the_path_may_be_written_with_percent_signs(served: Served) -> None:
    url = urlsplit(await stored(served))
    path = "/media/" + url.path.removeprefix("/media/").replace("/", "%2F")
    assert served.http.get(f"{path}?{url.query}").content == PNG


async def test_altered_links_are_refused(served: Served) -> None:
    link = await stored(served)
    other = urlsplit(await stored(served)).path
    url = urlsplit(link)
    expires, _, signature = url.query.partition("&signature=")
    for altered in (
        url.path,
        f"{url.path}?{expires}",
        f"{url.path}?signature={signature}",
        f"{url.path}?{expires}0&signature={signature}",
        f"{url.path}?{expires}&signature={signature[:-1]}",
        f"{url.path}?{expires}&signature={signature * 20}",
        f"{url.path}?{expires}&signature=%ff%00",
        f"{other}?{url.query}",
        f"/media/?{url.query}",
        f"/media/x?{url.query}",
        f"/media/..%2f..%2fetc%2fpasswd?{url.query}",
    ):
        require_refused(served.http.get(altered))
        assert served.http.head(altered).status_code == 404


async def test_a_link_to_a_file_that_is_gone_is_refused(served: Served) -> None:
    link = await stored(served)
    await served.store.delete(urlsplit(link).path.removeprefix("/media/"))
    require_refused(served.http.get(link))


async def test_a_signature_does_not_make_a_path_of_something_else(served: Served) -> None:
    """Even signed by us, only the store's own keys are looked up."""
    (served.root / "secret.png").write_bytes(b"secret")
    for path in ("secret.png", "../secret.png", str(served.root / "secret.png")):
        require_refused(served.http.get(f"/media/{quote(path, safe='')}?{SIGNER.query(path, expires_in_seconds=60)}"))


def test_the_description_names_the_route_once() -> None:
    app = FastAPI()
    app.include_router(router)
    with warnings.catch_warnings(action="error"):
        assert list(app.openapi()["paths"]["/media/{key}"]) == ["get"]
