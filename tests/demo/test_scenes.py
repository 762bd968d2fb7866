"""The procedural scenes: what is said about a drawing is exactly what was drawn."""

import random

import pytest
from PIL import ImageChops

from deployments.demo.scenes import (
    ASPECTS,
    COLOURS,
    SHAPES,
    draw_background,
    draw_mixed_scene,
    draw_scene,
    draw_texture,
    random_size,
)

SIZES = [(640, 480), (512, 512), (480, 640), (224, 160)]


@pytest.mark.parametrize("size", SIZES)
def test_same_seed_draws_the_same_scene(size: tuple[int, int]) -> None:
    """A scene is decided by its seed and its size alone."""
    first, second = (draw_scene(random.Random(7), size) for _ in range(2))
    assert first.objects == second.objects
    assert first.image.tobytes() == second.image.tobytes()


def test_other_seed_draws_another_scene() -> None:
    """Different seeds give different scenes."""
    assert draw_scene(random.Random(1), (640, 480)) != draw_scene(random.Random(2), (640, 480))


@pytest.mark.parametrize("size", SIZES)
def test_objects_lie_inside_the_canvas_and_apart(size: tuple[int, int]) -> None:
    """Boxes are inside the canvas, do not overlap, and stand from left to right."""
    rng = random.Random(3)
    for _ in range(50):
        scene = draw_scene(rng, size)
        assert size == scene.image.size
        assert 1 <= len(scene.objects) <= 3
        boxes = [o.box for o in scene.objects]
        assert sorted(boxes) == boxes
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            assert 0 <= x1 < x2 <= size[0]
            assert 0 <= y1 < y2 <= size[1]
            for a1, b1, a2, b2 in boxes[index + 1 :]:
                assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1


def test_every_object_of_a_scene_is_of_its_own_kind() -> None:
    """No two objects share shape and colour, so a caption never repeats a phrase."""
    rng = random.Random(4)
    for _ in range(100):
        kinds = [(o.shape, o.colour) for o in draw_scene(rng, (320, 320)).objects]
        assert len(set(kinds)) == len(kinds)


def test_all_shapes_and_colours_occur() -> None:
    """Nothing that can be named is never drawn."""
    rng = random.Random(5)
    objects = [o for _ in range(100) for o in draw_scene(rng, (160, 160)).objects]
    assert set(SHAPES) == {o.shape for o in objects}
    assert set(COLOURS) == {o.colour for o in objects}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(20))
def test_box_is_the_extent_of_changed_pixels(size: tuple[int, int], seed: int) -> None:
    """The box of a lone object bounds precisely the pixels that differ from the background."""
    scene = draw_scene(random.Random(seed), size, max_objects=1)
    background = draw_background(random.Random(seed), size)
    changed = ImageChops.difference(scene.image, background).getbbox()
    assert changed is not None
    assert tuple(float(v) for v in changed) == scene.objects[0].box


def test_random_sizes_keep_their_area_and_aspect() -> None:
    """Random canvases have the asked area and an aspect within the stated range."""
    rng = random.Random(6)
    for _ in range(200):
        width, height = random_size(rng, 240)
        assert abs(width * height - 240 * 240) < 0.02 * 240 * 240
        assert ASPECTS[0] - 0.02 <= width / height <= ASPECTS[1] + 0.02


def test_mixed_scenes_hold_what_the_checkpoint_knows() -> None:
    """Up to five shapes, up to two words, both, or nothing; all inside the canvas and apart."""
    rng = random.Random(8)
    scenes = [draw_mixed_scene(rng, (320, 240)) for _ in range(300)]
    assert {len(s.objects) for s in scenes} == {0, 1, 2, 3, 4, 5}
    assert {len(s.words) for s in scenes} == {0, 1, 2}
    assert any(s.objects and s.words for s in scenes)
    for scene in scenes:
        boxes = [*(thing.box for thing in scene.objects), *(word.box for word in scene.words)]
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            assert 0 <= x1 < x2 <= 320
            assert 0 <= y1 < y2 <= 240
            for a1, b1, a2, b2 in boxes[index + 1 :]:
                assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1


def test_words_are_of_all_lengths_upright_and_turned() -> None:
    """One to eight letters; the quad holds the ink, and each letter's middle is in it."""
    rng = random.Random(9)
    words = [word for _ in range(200) for word in draw_mixed_scene(rng, (320, 320)).words]
    assert {len(word.text) for word in words} == set(range(1, 9))
    assert any(word.turn for word in words)
    assert not all(word.turn for word in words)
    for word in words:
        assert len(word.letters) == len(word.text)
        xs, ys = zip(*word.quad, strict=True)
        extent = (min(xs), min(ys), max(xs), max(ys))
        assert word.box[0] >= extent[0] - 2
        assert word.box[2] <= extent[2] + 2
        assert all(extent[0] <= x <= extent[2] for x, _ in word.letters)
        assert all(extent[1] <= y <= extent[3] for _, y in word.letters)


def test_the_box_of_a_word_is_the_extent_of_its_ink() -> None:
    """What differs from the background is the word."""
    for seed in range(30):
        scene = draw_mixed_scene(random.Random(seed), (320, 320))
        if len(scene.words) == 1 and not scene.objects:
            break
    rng = random.Random(seed)
    rng.choices(range(4), weights=(40, 40, 14, 6))
    changed = ImageChops.difference(scene.image, draw_background(rng, (320, 320))).getbbox()
    assert changed is not None
    assert scene.words[0].box == pytest.approx(changed, abs=1)


def test_outlines_touch_all_sides_of_the_box() -> None:
    """A polygon is as wide and as high as what was drawn."""
    rng = random.Random(10)
    for scene in (draw_mixed_scene(rng, (320, 320)) for _ in range(50)):
        for thing in scene.objects:
            xs, ys = zip(*thing.outline, strict=True)
            assert (min(xs), min(ys), max(xs), max(ys)) == pytest.approx(thing.box)


def test_textures_are_pictures_of_nothing_and_differ() -> None:
    """A texture fills the canvas, and the next one is another."""
    rng = random.Random(11)
    first, second = (draw_texture(rng, (160, 120)) for _ in range(2))
    assert first.size == (160, 120)
    assert len(first.getcolors(160 * 120) or ()) > 50
    assert first.tobytes() != second.tobytes()
