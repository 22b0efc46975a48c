"""How fast the SAM 3 pool is on this machine, beside plain transformers called one picture at a time.

    python -m tests.benchmarks.pool [--checkpoint FOLDER] [--requests 200] [--in-flight 1 8 32]

Both sides get the same JPEGs and give the same thing back: run lengths and an 8-bit PNG of each mask. The pool runs
as a process of its own behind a unix socket; its clients share one event loop in this process. Pictures are all
different, so nothing comes from the cache of encoded pictures, except in the last line, where every request clicks on
one picture. The line before shows what a concept costs that is
not in the picture.
"""

import argparse
import asyncio
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTokenizer, Sam3Model

from inference import masks
from inference.pool.settings import SHIPPED_CHECKPOINT
from inference.providers.local import LocalPool
from inference.task import Picture, PictureFormat, PointPrompt, Prompt, Rendering, SegmentResult, SegmentTask
from tests.inference.drawings import encoded, shapes
from tests.inference.random_weights import write_random_checkpoint

MODEL = "meta/sam-3-image"
MASKS = 3
START_TIMEOUT_SECONDS = 120.0
CALL_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Measured:
    """One line of the table."""

    what: str
    in_flight: int
    seconds: float
    latencies: Sequence[float]
    stages: str = ""

    def line(self) -> str:
        ordered = sorted(self.latencies)
        p50, p99 = (1000 * ordered[min(int(len(ordered) * q), len(ordered) - 1)] for q in (0.5, 0.99))
        rate = len(ordered) / self.seconds
        return f"{self.what:<28}{self.in_flight:>9}{rate:>10.1f}{p50:>10.1f}{p99:>10.1f}   {self.stages}"


def pictures(count: int, width: int, height: int) -> list[Picture]:
    """JPEGs, all different."""
    return [
        Picture(
            data=encoded(shapes(width, height, seed=seed), "JPEG"), media_type="image/jpeg", width=width, height=height
        )
        for seed in range(count)
    ]


# --- plain transformers -----------------------------------------------------------------------------------------------


def plain(checkpoint: Path, work: Sequence[Picture], text: str, threshold: float) -> Measured:
    """The way the documentation of transformers shows, written with care but without a server."""
    model = Sam3Model.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokens = CLIPTokenizer.from_pretrained(checkpoint)(text, padding="max_length", max_length=32, return_tensors="pt")
    side = model.config.vision_config.image_size
    latencies = []
    begun = time.perf_counter()
    for picture in work:
        started = time.perf_counter()
        with Image.open(io.BytesIO(picture.data)) as image:
            rgb = image.convert("RGB")
        small = np.array(rgb.resize((side, side), Image.Resampling.BILINEAR))
        values = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            output = model(pixel_values=values, **tokens)
        scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
        kept = scores.topk(MASKS).indices
        kept = kept[scores[kept] >= threshold]
        if len(kept):
            chosen = output.pred_masks[0, kept][None]
            size = (picture.height, picture.width)
            drawn = (torch.nn.functional.interpolate(chosen, size, mode="bilinear")[0] > 0).numpy()
            for bitmap in drawn:
                region = masks.tighten(bitmap, width=picture.width, height=picture.height)
                if region is not None:
                    masks.encode_rle(region)
                    masks.encode_picture(masks.draw_mask(region), PictureFormat.PNG)
        latencies.append(time.perf_counter() - started)
    return Measured("plain transformers", 1, time.perf_counter() - begun, latencies)


# --- the pool ---------------------------------------------------------------------------------------------------------


async def through_pool(pool: LocalPool, tasks: Sequence[SegmentTask], in_flight: int, what: str) -> Measured:
    """Keep `in_flight` requests under way until `tasks` are done."""
    remaining = iter(tasks)
    latencies: list[float] = []
    results: list[SegmentResult] = []

    async def client() -> None:
        for task in remaining:
            started = time.perf_counter()
            deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT_SECONDS
            results.append(await pool.segment(task, deadline=deadline))
            latencies.append(time.perf_counter() - started)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    seconds = time.perf_counter() - begun
    stages = "  ".join(
        f"{stage} {statistics.median(r.timings_ms[stage] for r in results):.1f}"
        for stage in ("queue", "decode", "inference", "encode")
    )
    return Measured(what, in_flight, seconds, latencies, stages)


async def measure_pool(
    url: str, work: Sequence[Picture], text: str, threshold: float, in_flights: Sequence[int]
) -> None:
    pool = LocalPool([url])
    give_up = time.monotonic() + START_TIMEOUT_SECONDS
    while (await pool.health())[0]["status"] != "ready":
        if time.monotonic() > give_up:
            raise TimeoutError("the pool did not become ready")
        await asyncio.sleep(0.1)
    rendering = Rendering(max_pictures=MASKS)

    def tasks(prompt: Prompt, shown: Sequence[Picture], organization: str) -> list[SegmentTask]:
        return [
            SegmentTask(
                model=MODEL,
                picture=picture,
                prompt=prompt,
                max_masks=MASKS,
                threshold=threshold,
                rendering=rendering,
                organization=f"{organization}{i % 3}",
            )
            for i, picture in enumerate(shown)
        ]

    by_text = Prompt(text=text)
    await through_pool(pool, tasks(by_text, work[:8], "warm"), 4, "warm-up")
    for in_flight in in_flights:
        line = await through_pool(pool, tasks(by_text, work, f"n{in_flight}-"), in_flight, "pool, text")
        print(line.line(), flush=True)
    absent = [replace(task, threshold=1.0) for task in tasks(by_text, work, "absent")]
    print((await through_pool(pool, absent, in_flights[-1], "pool, concept not there")).line(), flush=True)
    click = Prompt(points=(PointPrompt(x=work[0].width / 2, y=work[0].height / 2),))
    again = await through_pool(pool, tasks(click, [work[0]] * len(work), "click"), 1, "pool, click on a known one")
    print(again.line(), flush=True)
    await pool.aclose()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--text", default="red circle")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="pool-benchmark-") as name:
        folder, threshold = Path(name), 0.5
        checkpoint = arguments.checkpoint or SHIPPED_CHECKPOINT
        if not (checkpoint / "config.json").is_file():
            checkpoint, threshold = write_random_checkpoint(folder / "random weights"), 0.0
        work = pictures(arguments.requests, arguments.width, arguments.height)
        threads = torch.get_num_threads()
        print(
            f"{arguments.requests} JPEGs of {arguments.width} x {arguments.height}, '{arguments.text}', "
            f"checkpoint {checkpoint.name}, {os.cpu_count()} cores, {threads} model threads"
        )
        print(f"{'':<28}{'in flight':>9}{'images/s':>10}{'p50 ms':>10}{'p99 ms':>10}   stages, median ms")
        print(plain(checkpoint, work, arguments.text, threshold).line(), flush=True)
        environment = os.environ | {
            "GATEWAY_POOL_SOCKET": str(folder / "pool.sock"),
            "GATEWAY_POOL_CHECKPOINT": str(checkpoint),
            "GATEWAY_POOL_EXIT_WITH_PARENT": "true",
            "GATEWAY_POOL_LOG_LEVEL": "warning",
        }
        program = subprocess.Popen([sys.executable, "-m", "inference.pool"], env=environment)
        try:
            url = f"unix://{folder}/pool.sock"
            asyncio.run(measure_pool(url, work, arguments.text, threshold, arguments.in_flight))
        finally:
            program.terminate()
            program.wait(30)


if __name__ == "__main__":
    main()
