"""Turn a scene into pixels and masks at any size."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.pool.tiny.scenes import Background, Scene, SceneObject

_SHIFT = 6
_VISIBLE_PART = 0.3


def contours(shape: str, stretch: float) -> list[NDArray[np.float64]]:  # noqa: PLR0911 - one return per shape
    """The outlines of a shape inside the unit circle, each [points, 2]; a second one cuts a hole."""
    match shape:
        case "circle":
            return [_regular(128)]
        case "ring":
            return [_regular(128), _regular(128) * stretch]
        case "square":
            return [_regular(4, math.pi / 4)]
        case "triangle":
            return [_regular(3, -math.pi / 2)]
        case "star":
            points = _regular(10, -math.pi / 2)
            points[1::2] *= 0.36 + 0.16 * (stretch - 0.38)
            return [points]
        case "rectangle":
            angle = math.atan(0.85 * stretch)
            x, y = math.cos(angle), math.sin(angle)
            return [np.array([[-x, -y], [x, -y], [x, y], [-x, y]])]
        case "cross":
            a, b = 0.95, 0.2 + 0.25 * (stretch - 0.38)
            return [
                np.array(
                    [
                        [-b, -a],
                        [b, -a],
                        [b, -b],
                        [a, -b],
                        [a, b],
                        [b, b],
                        [b, a],
                        [-b, a],
                        [-b, b],
                        [-a, b],
                        [-a, -b],
                        [-b, -b],
                    ]
                )
            ]
        case "heart":
            t = np.linspace(0.0, 2.0 * math.pi, 128, endpoint=False)
            across = 16 * np.sin(t) ** 3
            down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
            return [np.stack([across, down - 2.0], axis=1) / 17.0]
        case _:
            raise ValueError(f"unknown shape {shape!r}")


def render(scene: Scene, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw a scene. Returns RGB [height, width, 3] and each object's visible part [objects, height, width], 0..1."""
    scale = np.array([width / scene.size[0], height / scene.size[1]])
    image = _draw_background(scene.background, width, height)
    coverages = np.zeros((len(scene.objects), height, width), dtype=np.float32)
    for index, item in enumerate(scene.objects):
        _paint(item, image, coverages[: index + 1], scale)
    return _photograph(scene, image, math.sqrt(width * height)), coverages


def visible_boxes(coverages: NDArray[np.float32], whole_areas: NDArray[np.float64]) -> list[NDArray[np.float64] | None]:
    """Each object's tight box (x0, y0, x1, y1; 0..1) or None where less than 30 % of it can be seen.

    whole_areas: the objects' areas without occlusion, as a part of the picture.
    """
    height, width = coverages.shape[1:]
    boxes: list[NDArray[np.float64] | None] = []
    for coverage, whole in zip(coverages, whole_areas, strict=True):
        inside = coverage > 0.5
        if inside.mean() < _VISIBLE_PART * whole:
            boxes.append(None)
            continue
        ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if ys.size == 0:
            boxes.append(None)
            continue
        boxes.append(np.array([xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height]))
    return boxes


def whole_area(item: SceneObject) -> float:
    """The object's own area in scene units, hole taken out, outline not counted."""
    areas = [
        float(abs(cv2.contourArea((c * item.radius).astype(np.float32)))) for c in contours(item.shape, item.stretch)
    ]
    return areas[0] - sum(areas[1:])


def _regular(corners: int, start: float = 0.0) -> NDArray[np.float64]:
    angles = start + np.arange(corners) * (2.0 * math.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _paint(
    item: SceneObject, image: NDArray[np.float32], coverages: NDArray[np.float32], scale: NDArray[np.float64]
) -> None:
    """Composite one object onto `image`, write its coverage into the last of `coverages` and take it from the others.

    scale: pixels per scene unit, x and y.
    """
    height, width = image.shape[:2]
    turn = np.array([[math.cos(item.angle), math.sin(item.angle)], [-math.sin(item.angle), math.cos(item.angle)]])
    centre = np.array(item.centre) * scale
    reach = (item.radius * (1.0 + item.outline) * scale + 3.0).astype(int)
    x0, y0 = np.maximum((centre - reach).astype(int), 0)
    x1, y1 = min(int(centre[0]) + int(reach[0]) + 1, width), min(int(centre[1]) + int(reach[1]) + 1, height)
    if x1 <= x0 or y1 <= y0:
        return
    # cv2 counts pixels from their centres, scenes from the picture's corner: half a pixel apart.
    polygons = [
        np.round(((points * item.radius) @ turn * scale + centre - 0.5 - (x0, y0)) * (1 << _SHIFT)).astype(np.int32)
        for points in contours(item.shape, item.stretch)
    ]
    fill = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    cv2.fillPoly(fill, polygons, 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    body = fill.astype(np.float32) / 255.0
    ys = (np.arange(y0, y1, dtype=np.float32)[:, None] - centre[1]) / (item.radius * scale[1])
    shade = (1.0 + item.shading * ys)[..., None]
    window = image[y0:y1, x0:x1]
    window += body[..., None] * (np.clip(np.array(item.rgb, dtype=np.float32) * shade, 0, 255) - window)
    cover = body
    if item.outline > 0.0:
        stroke = np.zeros_like(fill)
        thickness = max(1, round(item.outline * item.radius * math.sqrt(scale[0] * scale[1])))
        cv2.polylines(stroke, polygons, True, 255, thickness, cv2.LINE_AA, _SHIFT)
        line = stroke.astype(np.float32) / 255.0
        window += line[..., None] * (np.array(item.outline_rgb, dtype=np.float32) - window)
        cover = np.maximum(body, line)
    coverages[:-1, y0:y1, x0:x1] *= 1.0 - cover
    coverages[-1, y0:y1, x0:x1] = cover


def _draw_background(background: Background, width: int, height: int) -> NDArray[np.float32]:
    first, second = (np.array(colour, dtype=np.float32) for colour in background.colours)
    if background.kind in ("page", "flat"):
        return np.tile(first, (height, width, 1))
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    along = (xs / width - 0.5) * math.cos(background.angle) + (ys / height - 0.5) * math.sin(background.angle)
    if background.kind == "gradient":
        mix = np.clip(along + 0.5, 0.0, 1.0)
    elif background.kind == "stripes":
        count = 4 + background.seed % 9
        mix = 0.5 + 0.5 * np.sin(2.0 * math.pi * count * along)
    else:
        rng = np.random.default_rng(background.seed)
        cells = 3 + background.seed % 8
        coarse = rng.random((cells, cells)).astype(np.float32)
        mix = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    painted: NDArray[np.float32] = (first + (second - first) * mix[..., None]).astype(np.float32)
    return painted


def _photograph(scene: Scene, image: NDArray[np.float32], unit: float) -> NDArray[np.uint8]:
    """Blur, noise and JPEG as the scene asks for them."""
    if scene.blur * unit > 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), scene.blur * unit), dtype=np.float32)
    if scene.noise > 0.0:
        rng = np.random.default_rng(scene.seed + 1)
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * scene.noise
    pixels: NDArray[np.uint8] = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if scene.jpeg_quality is not None:
        _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1].copy()
    return pixels
