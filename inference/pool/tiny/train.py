"""Train the small checkpoint: python -m inference.pool.tiny.train --out DIR --seed N [--device cpu].

Runs the phases of `schedule.SCHEDULE`, saves its state every few minutes, goes on from there when started again with
the same folder, appends one line per hundred steps to DIR/curve.jsonl and writes DIR/checkpoint after each phase.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from transformers import CLIPTokenizer

from inference.pool.backends import roi_align
from inference.pool.tiny import export, tokenizer
from inference.pool.tiny.detector_stage import DetectorStage
from inference.pool.tiny.examples import ReplayStore
from inference.pool.tiny.models import Models, build, enlarged, write_atomically
from inference.pool.tiny.optimisation import Average, Optimiser
from inference.pool.tiny.schedule import SCHEDULE, Phase
from inference.pool.tiny.stages import Stage, TokenStage
from inference.pool.tiny.tracker_stage import TrackerStage

_STORE_CAPACITY = 3000
_FRESH_PER_STEP = 4
_REPORT_STEPS = 100
_SAVE_SECONDS = 150.0
_AVERAGE_DECAY = 0.996
_FIRST_SCENE = 1_000_000


def stage_of(phase: Phase, models: Models) -> Stage:
    """The stage that runs a phase."""
    kinds: dict[str, type[Stage]] = {"tokens": TokenStage, "detector": DetectorStage, "tracker": TrackerStage}
    return kinds[phase.kind](models, phase)


class Run:
    """One training run in one folder."""

    def __init__(self, folder: Path, seed: int, device: torch.device) -> None:
        """Build the models and, where the folder holds a state, continue from it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seed = folder, seed
        self.phase_index, self.step, self._seconds = 0, 0, 0.0
        self._rng = np.random.default_rng(seed)
        self._resumed: dict[str, Any] | None = None
        first = _FIRST_SCENE * (seed + 1)
        state_path = folder / "state.pt"
        if state_path.exists():
            state = torch.load(state_path, map_location=device, weights_only=False)
            self.models = build(seed, state["image_size"], self._tokenizer(), device)
            self.models.load_state_dict(state["models"])
            self.phase_index, self.step, self._seconds = state["phase_index"], state["step"], state["seconds"]
            self._rng.bit_generator.state = state["rng"]
            self._resumed = state
            next_seed = state["next_seed"]
            self._store = ReplayStore(_STORE_CAPACITY, max(first, next_seed - _STORE_CAPACITY), self.models.image_size)
            self._store.fill(next_seed)
        else:
            self.models = build(seed, SCHEDULE[0].image_size, self._tokenizer(), device)
            self._store = ReplayStore(_STORE_CAPACITY, first, self.models.image_size)

    def _tokenizer(self) -> CLIPTokenizer:
        """The run's own tokenizer: later changes of the vocabulary must not change the meaning of trained tokens."""
        folder = self._folder / "tokenizer"
        if not folder.exists():
            tokenizer.build().save_pretrained(folder)
        return CLIPTokenizer.from_pretrained(folder)

    def finish(self, phases: tuple[Phase, ...]) -> None:
        """Run all phases that are not done yet."""
        while self.phase_index < len(phases):
            self._run_phase(phases[self.phase_index])
            self.phase_index, self.step, self._resumed = self.phase_index + 1, 0, None
            self._save(None, None)
            models = self.models
            export.export(self._folder / "checkpoint", models.detector, models.tracker, models.tokenizer)

    def _run_phase(self, phase: Phase) -> None:
        """One cosine; at its end the averaged weights replace the last ones."""
        if phase.image_size != self.models.image_size:
            self._enlarge(phase.image_size)
        stage = stage_of(phase, self.models)
        groups = stage.parameter_groups()
        optimiser = Optimiser(groups, phase.peak, phase.steps)
        trained = {str(index): parameter for index, parameter in enumerate(optimiser.parameters)}
        average = Average(trained, _AVERAGE_DECAY)
        if self._resumed is not None and self._resumed["optimiser"] is not None:
            optimiser.load_state_dict(self._resumed["optimiser"])
            average.load_state_dict(self._resumed["average"])
        figures: defaultdict[str, list[float]] = defaultdict(list)
        if self.step == 0:
            stage.begin(self._store.draw(self._rng, stage.batch_size, _FRESH_PER_STEP))
        saved = started = time.monotonic()
        while self.step < phase.steps:
            examples = self._store.draw(self._rng, stage.batch_size, _FRESH_PER_STEP)
            loss, seen = stage.loss(examples, self._rng)
            rate = optimiser.step(loss, self.step)
            average.update()
            self.step += 1
            for name, value in {"loss": float(loss.detach()), **seen}.items():
                figures[name].append(value)
            now = time.monotonic()
            if self.step % _REPORT_STEPS == 0 or self.step == phase.steps:
                self._seconds += now - started
                started = now
                self._report(phase, rate, figures)
                figures.clear()
            if now - saved > _SAVE_SECONDS:
                self._save(optimiser, average)
                saved = now
        average.store()

    def _enlarge(self, image_size: int) -> None:
        """Go on with larger pictures, and as many of them as before."""
        self.models = enlarged(self.models, image_size)
        next_seed = self._store.next_seed
        self._store = ReplayStore(_STORE_CAPACITY, next_seed - len(self._store), image_size)
        self._store.fill(next_seed)

    def _report(self, phase: Phase, rate: float, figures: dict[str, list[float]]) -> None:
        means = {name: round(float(np.mean(values)), 4) for name, values in figures.items()}
        line = {
            "phase": self.phase_index,
            "kind": phase.kind,
            "step": self.step,
            "seconds": round(self._seconds, 1),
            "learning_rate": round(rate, 6),
            **means,
        }
        with (self._folder / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(line) + "\n")
        told = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        head = f"phase {self.phase_index + 1} {phase.kind} {self.step}/{phase.steps}  {self._seconds:.0f} s"
        print(f"{head}  {told}", flush=True)

    def _save(self, optimiser: Optimiser | None, average: Average | None) -> None:
        state = {
            "models": self.models.state_dict(),
            "image_size": self.models.image_size,
            "phase_index": self.phase_index,
            "step": self.step,
            "seconds": self._seconds,
            "rng": self._rng.bit_generator.state,
            "next_seed": self._store.next_seed,
            "optimiser": optimiser.state_dict() if optimiser else None,
            "average": average.state_dict() if average else None,
        }
        write_atomically(state, self._folder / "state.pt")


def main() -> None:
    """Read the command line and train to the end of the schedule."""
    parser = argparse.ArgumentParser(description="Train the small SAM 3 checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an existing run is continued")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    roi_align.install()
    Run(arguments.out, arguments.seed, torch.device(arguments.device)).finish(SCHEDULE)


if __name__ == "__main__":
    main()
