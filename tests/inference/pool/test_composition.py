"""How the tracker's and the detector's masks become one list (rules 4 and 5 of the room's README)."""

import numpy as np
import pytest

from inference.pool.backend import Candidate, Logits
from inference.pool.composition import Chosen, compose, iou
from inference.pool.prompts import Concept, Plan, VisualObject

SIDE = 40


def square(left: int, top: int, right: int, bottom: int) -> Logits:
    logits = np.full((SIDE, SIDE), -5, dtype=np.float32)
    logits[top:bottom, left:right] = 5
    return logits


def found(score: float, *corners: int) -> Candidate:
    return Candidate(score, square(*corners))


def listed(chosen: list[Chosen]) -> list[tuple[float, int | None]]:
    return [(c.score, c.object_id) for c in chosen]


def plan_of(*objects: VisualObject, excluded: tuple[tuple[float, float], ...] = ()) -> Plan:
    return Plan(objects, (Concept("thing"),), excluded)


def at(x: int, y: int) -> tuple[float, float]:
    return ((x + 0.5) / SIDE, (y + 0.5) / SIDE)


def test_instances_come_best_first_and_are_cut() -> None:
    instances = [found(0.6, 0, 0, 5, 5), found(0.9, 10, 10, 20, 20), found(0.7, 30, 30, 40, 40)]
    assert listed(compose(plan_of(), [], [instances], 2)) == [(0.9, None), (0.7, None)]


def test_what_two_phrases_find_is_listed_once_but_one_phrase_may_find_twins() -> None:
    twin, same = found(0.9, 0, 0, 10, 10), found(0.8, 0, 0, 10, 9)
    assert listed(compose(plan_of(), [], [[twin], [same]], 9)) == [(0.9, None)]
    assert listed(compose(plan_of(), [], [[twin, same]], 9)) == [(0.9, None), (0.8, None)]


def test_an_instance_with_a_negative_click_is_dropped() -> None:
    instances = [found(0.9, 0, 0, 10, 10), found(0.8, 20, 20, 30, 30)]
    chosen = compose(plan_of(excluded=(at(5, 5),)), [], [instances], 9)
    assert listed(chosen) == [(0.8, None)]


def test_the_same_thing_is_listed_once_with_the_trackers_mask_and_the_detectors_score() -> None:
    visual = VisualObject(4, ((*at(5, 5), True),))
    own = found(0.5, 0, 0, 10, 10)
    chosen = compose(plan_of(visual), [own], [[found(0.9, 0, 0, 10, 9), found(0.7, 20, 20, 30, 30)]], 9)
    assert listed(chosen) == [(0.9, 4), (0.7, None)]
    assert chosen[0].logits is own.logits


def test_an_instance_that_overlaps_or_contains_the_click_inherits_the_id_and_follows_its_object() -> None:
    visual = VisualObject(4, ((*at(5, 5), True),))
    overlapping = found(0.6, 0, 0, 10, 7)  # IoU 0.7
    containing = found(0.8, 0, 0, 40, 40)  # holds the click, IoU 0.06
    other = found(0.9, 20, 20, 30, 30)
    chosen = compose(plan_of(visual), [found(0.5, 0, 0, 10, 10)], [[overlapping, containing, other]], 9)
    assert listed(chosen) == [(0.5, 4), (0.8, 4), (0.6, 4), (0.9, None)]


def test_objects_come_in_the_order_given_whatever_they_score() -> None:
    objects = (VisualObject(2, ((*at(5, 5), True),)), VisualObject(1, ((*at(25, 25), True),)))
    chosen = compose(Plan(objects, ()), [found(0.1, 0, 0, 10, 10), found(0.9, 20, 20, 30, 30)], [], 9)
    assert listed(chosen) == [(0.1, 2), (0.9, 1)]


def test_an_empty_mask_is_left_out() -> None:
    assert compose(plan_of(), [], [[found(0.9, 0, 0, 0, 0)]], 9) == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((0, 0, 10, 10), (0, 0, 10, 10), 1), ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3), ((0, 0, 0, 0), (0, 0, 0, 0), 0)],
)
def test_intersection_over_union(one: tuple[int, ...], other: tuple[int, ...], expected: float) -> None:
    assert iou(square(*one), square(*other)) == pytest.approx(expected)
