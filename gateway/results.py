"""Give out results under signed links."""

from fastapi import APIRouter, Request, Response

from gateway.dependencies import ResourcesOf
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.media.errors import LinkRefused
from gateway.media.store import MEDIA_TYPES, is_key

router = APIRouter(route_class=OpenAIRoute, tags=["media"])


@router.head("/media/{key:path}", include_in_schema=False)
@router.get("/media/{key:path}")
async def result(
    key: str,
    request: Request,
    resources: ResourcesOf,
    expires: str = "",
    signature: str = "",
) -> Response:
    """The file behind a link from an answer; needs no key, only the link.

    Raises LinkRefused (404) for links that are altered, expired or whose file is past its retention.
    """
    seconds_left = resources.links.seconds_left(key, expires, signature)
    data = await resources.media.get(key) if is_key(key) else None
    if data is None:
        raise LinkRefused("This result is no longer kept.")
    name = key.rpartition("/")[2]
    headers = {
        "content-length": str(len(data)),
        "content-disposition": f'inline; filename="{name}"',
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cache-control": f"private, max-age={seconds_left}, immutable",
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
    }
    body = b"" if request.method == "HEAD" else data
    return Response(body, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)
