"""The demo pictures: python -m inference.pool.tiny.pictures [--out DIR]."""

import argparse
from pathlib import Path

import cv2

from inference.pool.tiny import drawing
from inference.pool.tiny.scenes import Background, Scene, compose

WIDTH, HEIGHT = 960, 640
FOLDER = Path(__file__).parent / "pictures"


def demo_scenes() -> dict[str, Scene]:
    """Each demo picture's file name and scene."""
    aspect = WIDTH / HEIGHT
    page = Background("page", ((252, 252, 252), (252, 252, 252)), 0.0, 0)
    dusk = Background("gradient", ((34, 38, 58), (76, 66, 92)), 1.2, 0)
    mist = Background("clouds", ((196, 204, 206), (222, 224, 216)), 0.0, 6)
    slate = Background("stripes", ((112, 118, 122), (128, 134, 136)), 0.7, 5)
    return {
        "shapes.png": compose(
            32,
            (
                ("red", "circle"),
                ("blue", "square"),
                ("green", "triangle"),
                ("yellow", "star"),
                ("purple", "ring"),
                ("orange", "heart"),
            ),
            page,
            aspect,
        ),
        "dusk.png": compose(
            173,
            (("white", "circle"), ("yellow", "star"), ("pink", "heart"), ("orange", "ring")),
            dusk,
            aspect,
        ),
        "mist.png": compose(
            1,
            (
                ("red", "circle"),
                ("red", "square"),
                ("blue", "circle"),
                ("purple", "cross"),
                ("blue", "triangle"),
                ("green", "heart"),
            ),
            mist,
            aspect,
        ),
        "slate.png": compose(
            173, (("yellow", "circle"), ("white", "star"), ("red", "triangle"), ("black", "ring")), slate, aspect
        ),
    }


def write(folder: Path) -> None:
    """Draw all demo pictures into `folder` as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in demo_scenes().items():
        image, _ = drawing.render(scene, WIDTH, HEIGHT)
        cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description="Draw the demo pictures.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
