"""From a customer's prompt to rows of the model: the deterministic half of serving prompts in combination.

The rules, by number, are in the room's README ("How prompts combine"). Nothing here touches a device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inference.errors import InputRejected
from inference.task import BoxPrompt, PointPrompt, Prompt, SegmentTask

PHRASES_MAX = 8
OBJECTS_MAX = 32
POINTS_MAX = 256
BOXES_MAX = 64
MASKS_MAX = 32
TEXT_CHARACTERS_MAX = 1_000
VISUAL = "visual"  # the text that the detector was trained to read as "like the boxes"

Box = tuple[float, float, float, float]  # corners, fractions of the picture
Point = tuple[float, float, bool]  # x, y as fractions of the picture; positive


@dataclass(frozen=True, slots=True)
class VisualObject:
    """One object that was pointed at: a row for the tracker."""

    object_id: int | None
    points: tuple[Point, ...] = ()
    box: Box | None = None
    has_mask: bool = False


@dataclass(frozen=True, slots=True)
class Concept:
    """One phrase, all of whose instances are wanted: a row for the detector.

    `exemplars` are (x_center, y_center, width, height, positive), fractions of the picture.
    """

    text: str
    exemplars: tuple[tuple[float, float, float, float, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and the clicks that no instance of a concept may contain."""

    objects: tuple[VisualObject, ...]
    concepts: tuple[Concept, ...]
    excluded: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class _Group:
    """Prompts of one object while they are being gathered; boxes as corners, fractions."""

    object_id: int | None
    points: list[Point]
    boxes: list[Box]
    has_mask: bool = False

    @property
    def pointed(self) -> bool:
        return self.has_mask or any(positive for _, _, positive in self.points)


def plan(task: SegmentTask, *, width: int, height: int) -> Plan:
    """Turn the prompt of `task` into rows for a picture of `width` x `height` displayed pixels.

    Raises InputRejected naming "prompt", "points", "boxes", "mask", "max_masks" or "threshold".
    """
    _check_bounds(task)
    prompt = task.prompt
    phrases = split_phrases(prompt.text)
    groups = _group(prompt, width, height)
    negatives = [(_scale_box(box, width, height), box.object_id) for box in prompt.boxes if not box.positive]
    if phrases:
        return _plan_with_text(phrases, groups, negatives)
    return _plan_without_text(groups, negatives)


def split_phrases(text: str | None) -> tuple[str, ...]:
    """The concepts of a text, split at commas; blanks and repetitions dropped.

    Raises InputRejected("prompt") for more than PHRASES_MAX of them.
    """
    phrases = dict.fromkeys(" ".join(part.split()) for part in (text or "").split(","))
    phrases.pop("", None)
    if len(phrases) > PHRASES_MAX:
        raise InputRejected(
            f"The prompt names {len(phrases)} concepts between commas; at most {PHRASES_MAX} are accepted.",
            field="prompt",
        )
    return tuple(phrases)


def _check_bounds(task: SegmentTask) -> None:
    prompt = task.prompt
    if not 1 <= task.max_masks <= MASKS_MAX:
        raise InputRejected(f"max_masks must lie between 1 and {MASKS_MAX}.", field="max_masks")
    if not 0 <= task.threshold <= 1:  # also refuses NaN
        raise InputRejected("threshold must lie between 0 and 1.", field="threshold")
    if len(prompt.text or "") > TEXT_CHARACTERS_MAX:
        raise InputRejected(
            f"The prompt is longer than {TEXT_CHARACTERS_MAX} characters; describe the object in a few words.",
            field="prompt",
        )
    if len(prompt.points) > POINTS_MAX:
        raise InputRejected(f"More than {POINTS_MAX} points.", field="points")
    if len(prompt.boxes) > BOXES_MAX:
        raise InputRejected(f"More than {BOXES_MAX} boxes.", field="boxes")


# --- grouping (rule 2) ------------------------------------------------------------------------------------------------


def _group(prompt: Prompt, width: int, height: int) -> list[_Group]:
    """Objects in the order in which they are first mentioned: points, then boxes, then the mask."""
    # Keys: an object_id; None for points without one, which are the clicks of one object; a box's own place otherwise.
    groups: dict[int | tuple[str, int] | None, _Group] = {}
    for point in prompt.points:
        group = groups.setdefault(point.object_id, _Group(point.object_id, [], []))
        group.points.append(_scale_point(point, width, height))
    for place, box in enumerate(prompt.boxes):
        if box.positive:
            key = ("box", place) if box.object_id is None else box.object_id
            group = groups.setdefault(key, _Group(box.object_id, [], []))
            group.boxes.append(_scale_box(box, width, height))
    if prompt.mask is not None:
        # Clicks without an id refine the mask; without such clicks the mask stands alone.
        groups.setdefault(None, _Group(None, [], [])).has_mask = True
    if len(groups) > OBJECTS_MAX:
        raise InputRejected(
            f"Points and boxes describe {len(groups)} objects; at most {OBJECTS_MAX} are accepted. Boxes of one object "
            "share an object_id.",
            field="points" if len(prompt.points) > len(prompt.boxes) else "boxes",
        )
    return list(groups.values())


def _scale_point(point: PointPrompt, width: int, height: int) -> Point:
    if not (0 <= point.x <= width and 0 <= point.y <= height):  # also refuses NaN and infinities
        raise InputRejected(
            f"The point ({point.x:g}, {point.y:g}) lies outside the picture of {width} x {height} pixels.",
            field="points",
        )
    return (point.x / width, point.y / height, point.positive)


def _scale_box(box: BoxPrompt, width: int, height: int) -> Box:
    """Corners as fractions, clamped to the picture."""
    corners = (box.x_min, box.y_min, box.x_max, box.y_max)
    if not all(math.isfinite(value) for value in corners):
        raise InputRejected("A box has a corner that is not a number.", field="boxes")
    named = f"The box ({box.x_min:g}, {box.y_min:g}, {box.x_max:g}, {box.y_max:g})"
    if box.x_max <= box.x_min or box.y_max <= box.y_min:
        raise InputRejected(f"{named} has no area: x_max and y_max must exceed x_min and y_min.", field="boxes")
    x_min, x_max = max(0.0, box.x_min) / width, min(float(width), box.x_max) / width
    y_min, y_max = max(0.0, box.y_min) / height, min(float(height), box.y_max) / height
    if x_max <= x_min or y_max <= y_min:
        raise InputRejected(f"{named} lies outside the picture of {width} x {height} pixels.", field="boxes")
    return (x_min, y_min, x_max, y_max)


# --- rows (rules 3 and 4) ---------------------------------------------------------------------------------------------


def _plan_with_text(phrases: Sequence[str], groups: list[_Group], negatives: list[tuple[Box, int | None]]) -> Plan:
    pointed = [group for group in groups if group.pointed]
    # Beside one phrase a box is an example of it. Beside several it cannot be said of which, so it is an object.
    boxed = [group for group in groups if group.boxes and not group.pointed]
    exemplars = [_exemplar(box, positive=False) for box, _ in negatives]
    if len(phrases) == 1:
        exemplars = [_exemplar(box, positive=True) for group in boxed for box in group.boxes] + exemplars
    else:
        pointed = [group for group in groups if group.pointed or group.boxes]
    excluded = [(x, y) for group in groups for x, y, positive in group.points if not positive]
    return Plan(
        objects=tuple(_visual_object(group) for group in pointed),
        concepts=tuple(Concept(phrase, tuple(exemplars)) for phrase in phrases),
        excluded=tuple(excluded),
    )


def _plan_without_text(groups: list[_Group], negatives: list[tuple[Box, int | None]]) -> Plan:
    if not groups and not negatives:
        raise InputRejected("Nothing says what to segment: send a prompt, points, boxes or a mask.", field="prompt")
    if not groups:
        raise InputRejected("There are only negative boxes: add a prompt or a positive box.", field="boxes")
    for group in groups:
        if not group.pointed and not group.boxes:
            raise InputRejected(
                "An object has only negative points: add a positive point, a box or a prompt.", field="points"
            )
    if negatives and not any(group.pointed for group in groups):
        # "This, not that" describes a kind of thing; one outlined object needs no counter-example.
        exemplars = [_exemplar(box, positive=True) for group in groups for box in group.boxes]
        exemplars += [_exemplar(box, positive=False) for box, _ in negatives]
        return Plan((), (Concept(VISUAL, tuple(exemplars)),))
    for box, object_id in negatives:
        x, y = _center(box)
        for group in groups:
            if object_id is None or group.object_id == object_id:
                group.points.append((x, y, False))
    return Plan(tuple(_visual_object(group) for group in groups), ())


def _visual_object(group: _Group) -> VisualObject:
    """Several boxes of one object become their union, and the centre of each after the first a positive point."""
    points, box = list(group.points), None
    if group.boxes:
        x_mins, y_mins, x_maxs, y_maxs = zip(*group.boxes, strict=True)
        box = (min(x_mins), min(y_mins), max(x_maxs), max(y_maxs))
        points += [(*_center(extra), True) for extra in group.boxes[1:]]
    return VisualObject(group.object_id, tuple(points), box, group.has_mask)


def _center(box: Box) -> tuple[float, float]:
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def _exemplar(box: Box, *, positive: bool) -> tuple[float, float, float, float, bool]:
    return (*_center(box), box[2] - box[0], box[3] - box[1], positive)
