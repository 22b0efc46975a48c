"""The pool as an operator meets it: a process that loads, answers, drains, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.providers.local import LocalPool
from inference.task import BoxPrompt, PointPrompt, Prompt, SegmentTask
from tests.inference.drawings import picture, shapes

START_TIMEOUT_SECONDS = 60.0
EX_CONFIG = 78


def start(folder: Path, **settings: Any) -> "subprocess.Popen[str]":
    """A pool on a socket in `folder`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment |= {f"GATEWAY_POOL_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"GATEWAY_POOL_SOCKET": str(folder / "pool.sock"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "inference.pool"], env=environment, stderr=subprocess.PIPE, text=True
    )


async def ready(url: str) -> dict[str, Any]:
    """Its health once it is ready."""
    provider = LocalPool([url])
    give_up = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        (health,) = await provider.health()
        if health["status"] == "ready":
            await provider.aclose()
            return health
        assert time.monotonic() < give_up, health
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def url(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pool")
    program = start(folder, checkpoint=random_checkpoint)
    yield f"unix://{folder}/pool.sock"
    program.terminate()
    _, log = program.communicate(timeout=20)
    assert program.returncode == 0, log
    assert "draining" in log
    assert "Traceback" not in log


async def test_it_becomes_ready_and_names_what_it_offers(url: str) -> None:
    health = await ready(url)
    assert health["models"] == ["meta/sam-3-1-image", "meta/sam-3-image", "meta/sam-3-image-rle"]
    assert health["device"] in ("cpu", "cuda")
    assert 0 < health["memory_bytes"] < 600_000_000


PROMPTS = {
    "text": Prompt(text="red circle"),
    "several concepts": Prompt(text="red circle, blue square"),
    "point": Prompt(points=(PointPrompt(x=100, y=100),)),
    "points": Prompt(points=(PointPrompt(x=100, y=100), PointPrompt(x=10, y=10, positive=False))),
    "box": Prompt(boxes=(BoxPrompt(x_min=20, y_min=20, x_max=200, y_max=200),)),
    "exemplar": Prompt(text="circle", boxes=(BoxPrompt(x_min=20, y_min=20, x_max=200, y_max=200),)),
    "mask": Prompt(mask=picture(shapes().convert("L"))),
    "everything": Prompt(
        text="circle",
        points=(PointPrompt(x=100, y=100, object_id=1),),
        boxes=(
            BoxPrompt(x_min=20, y_min=20, x_max=200, y_max=200, object_id=1),
            BoxPrompt(x_min=200, y_min=20, x_max=300, y_max=200),
            BoxPrompt(x_min=0, y_min=0, x_max=9, y_max=9, positive=False),
        ),
        mask=picture(shapes().convert("L")),
    ),
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
async def test_every_kind_of_prompt_is_answered(url: str, prompt: Prompt) -> None:
    await ready(url)
    provider = LocalPool([url])
    deadline = asyncio.get_running_loop().time() + 30
    task = SegmentTask(model="meta/sam-3-image", picture=picture(), prompt=prompt, threshold=0.05, max_masks=5)
    result = await provider.segment(task, deadline=deadline)
    assert (result.width, result.height) == (320, 240)
    assert 1 <= len(result.masks) <= 5
    assert all(0 <= (mask.score or 0) <= 1 for mask in result.masks)
    assert result.masks[0].picture
    again = await provider.segment(task, deadline=deadline)
    assert again.masks == result.masks  # from the cache of encoded pictures
    await provider.aclose()


async def test_many_at_once_get_what_one_alone_gets(url: str) -> None:
    await ready(url)
    provider = LocalPool([url])
    tasks = [
        SegmentTask(
            model="meta/sam-3-image",
            picture=picture(shapes(200 + i, 150, seed=i % 5)),
            prompt=Prompt(text="red circle"),
            threshold=0.05,
            max_masks=3,
            organization=f"o{i % 3}",
        )
        for i in range(12)
    ]
    deadline = asyncio.get_running_loop().time() + 60
    together = await asyncio.gather(*(provider.segment(task, deadline=deadline) for task in tasks))
    for task, result in zip(tasks, together, strict=True):
        fresh = SegmentTask(
            model=task.model,
            picture=task.picture,
            prompt=task.prompt,
            threshold=task.threshold,
            max_masks=task.max_masks,
            organization="alone",
        )
        alone = await provider.segment(fresh, deadline=deadline)
        assert [m.score for m in result.masks] == pytest.approx([m.score for m in alone.masks], abs=1e-3)
    await provider.aclose()


def test_a_missing_checkpoint_ends_it_with_a_sentence(tmp_path: Path) -> None:
    program = start(tmp_path, checkpoint=tmp_path / "nothing")
    _, log = program.communicate(timeout=START_TIMEOUT_SECONDS)
    assert program.returncode == EX_CONFIG
    assert "There is no checkpoint at" in log
    assert "Traceback" not in log


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel, as only Linux lets one")
def test_it_ends_with_its_parent(tmp_path: Path, random_checkpoint: Path) -> None:
    script = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-m', 'inference.pool']).pid, flush=True); sys.stdin.read()"
    )
    environment = os.environ | {
        "GATEWAY_POOL_SOCKET": str(tmp_path / "pool.sock"),
        "GATEWAY_POOL_CHECKPOINT": str(random_checkpoint),
        "GATEWAY_POOL_EXIT_WITH_PARENT": "true",
    }
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pool = int(parent.stdout.readline())
    asyncio.run(listening(tmp_path / "pool.sock"))
    parent.kill()
    parent.communicate()
    give_up = time.monotonic() + 20
    while is_running(pool):
        assert time.monotonic() < give_up, "the pool outlived its parent"
        time.sleep(0.05)


async def listening(socket: Path) -> None:
    give_up = time.monotonic() + START_TIMEOUT_SECONDS
    while not socket.exists():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]


def test_it_can_be_stopped_while_it_loads(tmp_path: Path, random_checkpoint: Path) -> None:
    program = start(tmp_path, checkpoint=random_checkpoint)
    asyncio.run(listening(tmp_path / "pool.sock"))
    program.send_signal(signal.SIGTERM)
    _, log = program.communicate(timeout=20)
    assert program.returncode == 0, log
