"""How prompts combine, rule by rule as the room's README numbers them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InputRejected
from inference.pool.prompts import VISUAL, Concept, Plan, VisualObject, plan, split_phrases
from inference.task import BoxPrompt, Picture, PointPrompt, Prompt, SegmentTask

PICTURE = Picture(data=b"", media_type="image/png", width=200, height=100)


def planned(**prompt: Any) -> Plan:
    task = {name: prompt.pop(name) for name in ("max_masks", "threshold") if name in prompt}
    return plan(SegmentTask(model="m", picture=PICTURE, prompt=Prompt(**prompt), **task), width=200, height=100)


def refused(**prompt: Any) -> InputRejected:
    with pytest.raises(InputRejected) as refusal:
        planned(**prompt)
    return refusal.value


def click(x: float, y: float, positive: bool = True, object_id: int | None = None) -> PointPrompt:
    return PointPrompt(x=x, y=y, positive=positive, object_id=object_id)


def box(*corners: float, positive: bool = True, object_id: int | None = None) -> BoxPrompt:
    return BoxPrompt(
        x_min=corners[0], y_min=corners[1], x_max=corners[2], y_max=corners[3], positive=positive, object_id=object_id
    )


# Rule 1: what is accepted


def test_nothing_to_look_for_is_refused() -> None:
    assert refused().field == "prompt"
    assert refused(text="  \t ").field == "prompt"
    assert refused(text=" , ,").field == "prompt"


@pytest.mark.parametrize("x", [-1.0, 200.5, math.nan, math.inf])
def test_a_point_outside_the_picture_is_refused(x: float) -> None:
    error = refused(points=(click(x, 5),))
    assert error.field == "points"
    assert "200 x 100" in error.message or math.isnan(x)


def test_points_on_the_edges_are_inside() -> None:
    assert planned(points=(click(0, 0), click(200, 100))).objects[0].points == ((0, 0, True), (1, 1, True))


def test_boxes_are_clamped_to_the_picture() -> None:
    assert planned(boxes=(box(-50, 10, 500, 90),)).objects[0].box == (0, 0.1, 1, 0.9)


@pytest.mark.parametrize(
    "corners",
    [
        (50, 10, 40, 20),
        (10, 50, 20, 40),
        (10, 10, 10, 20),
        (300, 10, 400, 20),
        (math.nan, 0, 1, 1),
        (0, 0, math.inf, 1),
    ],
)
def test_an_inverted_empty_outside_or_unreal_box_is_refused(corners: tuple[float, ...]) -> None:
    assert refused(boxes=(box(*corners),)).field == "boxes"
    assert refused(text="cat", boxes=(box(*corners, positive=False),)).field == "boxes"


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ({"text": "cat", "max_masks": 33}, "max_masks"),
        ({"text": "cat", "max_masks": 0}, "max_masks"),
        ({"text": "cat", "threshold": math.nan}, "threshold"),
        ({"text": "cat", "threshold": 1.01}, "threshold"),
        ({"text": "x" * 10_000}, "prompt"),
        ({"text": ",".join("abcdefghi")}, "prompt"),
        ({"points": (click(1, 1),) * 10_001}, "points"),
        ({"boxes": (box(0, 0, 1, 1),) * 10_001}, "boxes"),
        ({"boxes": (box(0, 0, 1, 1),) * 33}, "boxes"),
        ({"points": tuple(click(1, 1, object_id=i) for i in range(33))}, "points"),
    ],
)
def test_too_much_of_anything_is_refused(prompt: dict[str, Any], field: str) -> None:
    assert refused(**prompt).field == field


# Rule 2: objects


def test_points_without_an_id_are_clicks_on_one_object() -> None:
    assert planned(points=(click(20, 10), click(40, 20, positive=False))).objects == (
        VisualObject(None, ((0.1, 0.1, True), (0.2, 0.2, False))),
    )


def test_every_box_without_an_id_is_an_object_of_its_own() -> None:
    objects = planned(boxes=(box(0, 0, 20, 20), box(100, 50, 200, 100))).objects
    assert [o.box for o in objects] == [(0, 0, 0.1, 0.2), (0.5, 0.5, 1, 1)]


def test_an_object_id_joins_points_and_boxes_in_order_of_first_mention() -> None:
    objects = planned(
        points=(click(20, 10, object_id=7), click(100, 50), click(40, 20, object_id=3)),
        boxes=(box(0, 0, 100, 50, object_id=3), box(0, 0, 20, 20)),
    ).objects
    assert [o.object_id for o in objects] == [7, None, 3, None]
    assert objects[2] == VisualObject(3, ((0.2, 0.2, True),), (0, 0, 0.5, 0.5))


def test_several_boxes_of_one_object_are_their_union_and_a_click_in_each_further_one() -> None:
    (only,) = planned(boxes=(box(0, 0, 20, 20, object_id=1), box(100, 50, 200, 100, object_id=1))).objects
    assert only.box == (0, 0, 1, 1)
    assert only.points == ((0.75, 0.75, True),)


def test_a_mask_is_an_object_and_clicks_without_an_id_refine_it() -> None:
    alone = planned(mask=PICTURE, boxes=(box(0, 0, 20, 20),)).objects
    assert [o.has_mask for o in alone] == [False, True]
    (refined,) = planned(mask=PICTURE, points=(click(20, 10),)).objects
    assert refined == VisualObject(None, ((0.1, 0.1, True),), None, has_mask=True)


# Rule 3: without text


def test_without_text_everything_pointed_at_goes_to_the_tracker() -> None:
    made = planned(points=(click(20, 10),), boxes=(box(0, 0, 20, 20),), mask=PICTURE)
    assert made.concepts == ()
    assert len(made.objects) == 2


def test_a_negative_box_among_clicks_is_a_negative_click_at_its_centre() -> None:
    made = planned(
        points=(click(20, 10, object_id=1), click(60, 30, object_id=2)),
        boxes=(box(100, 50, 200, 100, positive=False), box(0, 0, 20, 20, positive=False, object_id=2)),
    )
    assert made.objects[0].points == ((0.1, 0.1, True), (0.75, 0.75, False))
    assert made.objects[1].points == ((0.3, 0.3, True), (0.75, 0.75, False), (0.05, 0.1, False))


def test_boxes_with_a_counter_example_describe_a_kind_of_thing() -> None:
    made = planned(boxes=(box(0, 0, 20, 20), box(100, 50, 200, 100, positive=False)))
    assert made.objects == ()
    assert made.concepts == (Concept(VISUAL, ((0.05, 0.1, 0.1, 0.2, True), (0.75, 0.75, 0.5, 0.5, False))),)


def test_only_negative_prompts_say_nothing() -> None:
    assert refused(points=(click(5, 5, positive=False),)).field == "points"
    assert refused(boxes=(box(0, 0, 20, 20, positive=False),)).field == "boxes"
    assert refused(points=(click(5, 5), click(9, 9, positive=False, object_id=2))).field == "points"


# Rule 4: with text


def test_text_alone_is_one_detector_row_for_each_phrase_between_commas() -> None:
    assert planned(text=" red  circle, dog ,,red circle").concepts == (Concept("red circle"), Concept("dog"))
    assert split_phrases(None) == ()


def test_beside_one_phrase_boxes_are_examples_of_it() -> None:
    made = planned(text="cat", boxes=(box(0, 0, 20, 20), box(100, 50, 200, 100, positive=False)))
    assert made.objects == ()
    assert made.concepts == (Concept("cat", ((0.05, 0.1, 0.1, 0.2, True), (0.75, 0.75, 0.5, 0.5, False))),)


def test_beside_several_phrases_a_box_is_an_object_and_a_negative_box_a_counter_example_of_each() -> None:
    made = planned(text="cat, dog", boxes=(box(0, 0, 20, 20), box(100, 50, 200, 100, positive=False)))
    assert [o.box for o in made.objects] == [(0, 0, 0.1, 0.2)]
    assert [c.exemplars for c in made.concepts] == [((0.75, 0.75, 0.5, 0.5, False),)] * 2


def test_beside_text_clicks_and_masks_are_objects_and_lone_boxes_stay_examples() -> None:
    made = planned(
        text="cat",
        points=(click(20, 10, object_id=1), click(180, 90, positive=False)),
        boxes=(box(0, 0, 40, 40, object_id=1), box(100, 50, 200, 100)),
        mask=PICTURE,
    )
    assert made.objects == (
        VisualObject(1, ((0.1, 0.1, True),), (0, 0, 0.2, 0.4)),
        VisualObject(None, ((0.9, 0.9, False),), None, has_mask=True),
    )
    assert made.concepts == (Concept("cat", ((0.75, 0.75, 0.5, 0.5, True),)),)
    assert made.excluded == ((0.9, 0.9),)


def test_negative_clicks_alone_beside_text_only_remove() -> None:
    made = planned(text="cat", points=(click(20, 10, positive=False),))
    assert made == Plan((), (Concept("cat"),), ((0.1, 0.1),))


finite = st.floats(-500, 500)


@given(
    st.lists(st.tuples(finite, finite, st.booleans(), st.none() | st.integers(0, 3)), max_size=6),
    st.lists(st.tuples(finite, finite, finite, finite, st.booleans(), st.none() | st.integers(0, 3)), max_size=6),
    st.none() | st.text(max_size=20),
)
def test_any_prompt_is_either_planned_inside_the_picture_or_refused(
    clicks: list[Any], corners: list[Any], text: str | None
) -> None:
    try:
        made = planned(
            text=text,
            points=tuple(click(*c) for c in clicks),
            boxes=tuple(box(*c[:4], positive=c[4], object_id=c[5]) for c in corners),
        )
    except InputRejected:
        return
    assert made.objects or made.concepts
    for visual in made.objects:
        assert visual.box or visual.has_mask or any(positive for _, _, positive in visual.points)
        assert all(0 <= v <= 1 for x, y, _ in visual.points for v in (x, y))
        assert visual.box is None or (0 <= visual.box[0] < visual.box[2] <= 1)
