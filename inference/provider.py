"""What the router asks of a provider, and what a provider says of itself before it is asked."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from inference.task import BoxPrompt, GenerateTask, PointPrompt, SegmentResult, SegmentTask, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do with a model. What is not in here was not foreseen, so it has no default of "yes"."""

    segments: bool
    generates: bool  # makes pictures from text alone
    text_characters_max: int
    several_concepts: bool  # phrases with commas between them
    mixed_prompts: bool  # words together with points or boxes
    negative_boxes: bool
    objects_max: int  # different object ids among the prompts
    mask_prompts: bool
    masks_max: int
    scores: bool
    threshold_min: float
    threshold_max: float

    def lacking(self, task: Task) -> tuple[str, ...]:
        """What `task` asks for and cannot have here, in words for the customer."""
        if isinstance(task, GenerateTask):
            return () if self.generates else ("pictures from text alone",)
        prompt = task.prompt
        marks: list[PointPrompt | BoxPrompt] = [*prompt.points, *prompt.boxes]
        text = prompt.text or ""
        object_ids = {mark.object_id for mark in marks} - {None}
        several = "several" if self.objects_max else "any"
        checks = (
            ("segmentation", not self.segments),
            (f"a prompt of more than {self.text_characters_max} characters", len(text) > self.text_characters_max),
            ("several concepts, with commas between them", not self.several_concepts and "," in text),
            ("text together with points or boxes", not self.mixed_prompts and bool(text and marks)),
            ("boxes with label 0", not self.negative_boxes and not all(box.positive for box in prompt.boxes)),
            (f"{several} object ids", len(object_ids) > self.objects_max),
            ("mask prompts", not self.mask_prompts and prompt.mask is not None),
            (f"{task.max_masks} masks", task.max_masks > self.masks_max),
            ("scores", task.needs_scores and not self.scores),
            (f"a threshold of {task.threshold:g}", not self.threshold_min <= task.threshold <= self.threshold_max),
        )
        return tuple(feature for feature, is_lacking in checks if is_lacking)


EVERYTHING = Capabilities(
    segments=True,
    generates=False,
    text_characters_max=20_000,
    several_concepts=True,
    mixed_prompts=True,
    negative_boxes=True,
    objects_max=1_000,
    mask_prompts=True,
    masks_max=32,
    scores=True,
    threshold_min=0.0,
    threshold_max=1.0,
)
"""All that a task can ask for, as our own pools do it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A provider's key. `id` names it in logs and keeps its health apart from that of others; the key is in neither."""

    id: str
    secret: str = field(repr=False)
    is_customers: bool = False

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell keys apart and give none away."""
        return fingerprint_of(self.secret)


def fingerprint_of(secret: str) -> str:
    """16 hex digits of SHA-256; provider keys are long random texts, so nothing can be guessed from it."""
    return hashlib.sha256(b"provider key " + secret.encode()).hexdigest()[:16]


class Provider(Protocol):
    """Somebody who can segment pictures: the pool of this installation, or an upstream."""

    def capabilities(self, model: str) -> Capabilities | None:
        """What it can do with `model`; None if it does not offer it at all. Asks nobody."""
        ...

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """Do `task` before `deadline` (seconds on the event loop's monotonic clock), on `credential` if it takes one.

        Raises CredentialRefused, InputRejected, ProviderFailed, ProviderTimedOut, ProviderSaturated or
        ModelUnavailable, nothing else. All but ProviderFailed and ProviderTimedOut say that the work did not start.
        """
        ...


class PictureMaker(Provider, Protocol):
    """A provider that can also make pictures from text."""

    async def generate(
        self, task: GenerateTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """`task.count` pictures, each as a mask that has nothing but its picture. Raises as `segment`."""
        ...


class KeyedProvider(Provider, Protocol):
    """A provider that takes a key."""

    async def check(self, credential: Credential, *, deadline: float) -> None:
        """Ask for the cheapest thing that shows whether the key works; costs nothing. Raises as `segment`."""
        ...


@dataclass(frozen=True, slots=True)
class Deployment:
    """One provider under the name that logs and predictions know it by, e.g. "pool".

    Lower `priority` comes first; equal ones are ordered by health.
    """

    name: str
    provider: Provider
    credential: Credential | None = None
    priority: int = 0

    @property
    def health_key(self) -> str:
        """What its health is kept under: the same upstream may refuse one key and serve another."""
        return f"{self.name}/{self.credential.id}" if self.credential is not None else self.name

    @property
    def is_customers(self) -> bool:
        """Whether the customer pays the provider."""
        return self.credential is not None and self.credential.is_customers


def missing(deployments: Sequence[Deployment], task: Task) -> dict[str, tuple[str, ...]]:
    """By name, what each of these deployments cannot do of `task`; those that can do it all are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for deployment in deployments:
        capabilities = deployment.provider.capabilities(task.model)
        lacking = ("this model",) if capabilities is None else capabilities.lacking(task)
        if lacking:
            found[deployment.name] = lacking
    return found
