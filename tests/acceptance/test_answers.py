"""Answers over real HTTP: boxes, pictures, captions."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from deployments.demo.scoring import match_boxes
from tests.acceptance.caller import APP, Caller, encoded, error_type, scene, truth, uri
from tests.acceptance.origin import Origin, held

HELD_S = 4.0  # in which three requests reach Preprocess
SIZES = ((640, 480), (512, 512), (480, 640), (256, 256))


def recall(pairs: list[float]) -> float:
    """Share of true boxes that are found."""
    return sum(overlap >= 0.5 for overlap in pairs) / len(pairs)


def test_finds_the_true_boxes(caller: Caller) -> None:
    """At least 95 % of the objects in twelve unseen scenes are found, and little else."""
    overlaps, num_found = [], 0
    for seed in range(12):
        shown = scene(seed, SIZES[seed % len(SIZES)])
        found = caller.send(shown.image).json()["results"]["bboxes"]
        overlaps += [pair.iou for pair in match_boxes(truth(shown), found)]
        num_found += len(found)

    assert recall(overlaps) >= 0.95
    assert num_found <= 1.05 * len(overlaps) + 1


def test_answers_in_fals_shape(caller: Caller) -> None:
    """The answer has results.bboxes with x, y, w, h and an empty label, and an image."""
    answer = caller.send(scene(1).image).json()

    assert set(answer) == {"results", "image"}
    assert all(set(box) == {"x", "y", "w", "h", "label"} for box in answer["results"]["bboxes"])
    assert {box["label"] for box in answer["results"]["bboxes"]} == {""}
    assert set(answer["image"]) == {
        "url",
        "content_type",
        "file_name",
        "file_size",
        "width",
        "height",
    }


def test_the_annotated_picture_can_be_downloaded(caller: Caller) -> None:
    """Its URL serves the declared bytes without a key, and the boxes are drawn on the scene."""
    shown = scene(2)
    image = caller.send(shown.image).json()["image"]
    response = caller.http.get(image["url"])
    picture = Image.open(io.BytesIO(response.content))
    changed = np.abs(np.asarray(picture, int) - np.asarray(shown.image, int)).max(axis=2) > 60

    assert response.headers["content-type"] == image["content_type"] == "image/jpeg"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert image["file_size"] is None  # it was not drawn yet
    assert len(response.content) == int(response.headers["content-length"])
    assert picture.size == (image["width"], image["height"]) == shown.image.size
    assert changed.any()


def large(seed: int) -> Image.Image:
    """A scene of a camera's size, which is slow to draw on."""
    return scene(seed).image.resize((4000, 3000))


def test_a_client_that_downloads_at_once_gets_the_picture(caller: Caller) -> None:
    """Six large pictures are drawn at the same time."""
    images = [uri(encoded(large(seed), "JPEG"), "image/jpeg") for seed in range(6)]

    def pictured(image: str) -> tuple[int, tuple[int, int]]:
        response = caller.http.get(caller.send(image).json()["image"]["url"])
        return response.status_code, Image.open(io.BytesIO(response.content)).size

    with ThreadPoolExecutor(len(images)) as threads:
        assert set(threads.map(pictured, images)) == {(200, (4000, 3000))}


def test_a_picture_can_be_the_next_image_at_once(caller: Caller) -> None:
    """The URL works as an input while the picture is still drawn."""
    first = caller.send(encoded(large(1), "JPEG")).json()
    second = caller.send(first["image"]["url"]).json()

    assert (second["image"]["width"], second["image"]["height"]) == (4000, 3000)


def test_an_unknown_picture_is_not_waited_for(caller: Caller) -> None:
    """An invented name gets 404 at once."""
    began = time.monotonic()
    url = f"{caller.url}/cdn/files/{'0' * 32}-ffffffffff.jpg"

    assert caller.http.get(url).status_code == 404
    assert time.monotonic() - began < 2.0


def test_a_part_of_the_picture_can_be_downloaded(caller: Caller) -> None:
    """A range request answers with that range."""
    url = caller.send(scene(2).image).json()["image"]["url"]
    whole = caller.http.get(url).content
    part = caller.http.get(url, headers={"Range": "bytes=10-19"})

    assert (part.status_code, part.content) == (206, whole[10:20])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_lie_where_a_person_sees_the_object(caller: Caller, orientation: int) -> None:
    """A photograph's EXIF rotation is applied before anything is found in it."""
    shown = scene(3, (480, 360))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, undone
    stored = shown.image.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    answer = caller.send(uri(encoded(stored, "JPEG", quality=95, exif=exif), "image/jpeg")).json()
    pairs = match_boxes(truth(shown), answer["results"]["bboxes"])

    assert (answer["image"]["width"], answer["image"]["height"]) == (480, 360)
    assert min(pair.iou for pair in pairs) >= 0.5


def cmyk(image: Image.Image) -> bytes:
    """As a JPEG for printing."""
    return encoded(image.convert("CMYK"), "JPEG", quality=95)


def palette_with_alpha(image: Image.Image) -> bytes:
    """As a PNG with a palette, one colour of it transparent."""
    return encoded(image.quantize(255), "PNG", transparency=255)


FORMATS = {
    "JPEG": lambda image: encoded(image, "JPEG", quality=95),
    "WebP": lambda image: encoded(image, "WEBP", quality=95),
    "GIF": lambda image: encoded(image.quantize(256), "GIF"),
    "BMP": lambda image: encoded(image, "BMP"),
    "TIFF": lambda image: encoded(image, "TIFF"),
    "AVIF": lambda image: encoded(image, "AVIF"),
    "RGBA": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "CMYK": cmyk,
    "palette with alpha": palette_with_alpha,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_works(caller: Caller, name: str) -> None:
    """The objects are found in each format and colour mode that is read."""
    shown = scene(4)
    found = caller.send(FORMATS[name](shown.image)).json()["results"]["bboxes"]

    assert min(pair.iou for pair in match_boxes(truth(shown), found)) >= 0.5


def test_sixteen_bit_grey_works(caller: Caller) -> None:
    """A 16-bit image is scaled to 8 bits, not clipped to white."""
    shown = scene(5)
    grey = np.asarray(shown.image.convert("L"), np.uint16) * 257
    answer = caller.send(encoded(Image.fromarray(grey), "PNG")).json()
    picture = Image.open(io.BytesIO(caller.http.get(answer["image"]["url"]).content))

    assert abs(np.asarray(picture).mean() - np.asarray(shown.image.convert("L")).mean()) < 12


def test_fetches_an_image_by_url(caller: Caller, origin: Origin) -> None:
    """An http URL is fetched, also when the server sends it elsewhere first."""
    for path in ("/scene.png", "/moved"):
        found = caller.send(origin.url + path).json()["results"]["bboxes"]
        assert min(pair.iou for pair in match_boxes(truth(scene(0)), found)) >= 0.5


def test_tasks_about_one_url_share_its_download_and_its_pass(
    caller: Caller, origin: Origin
) -> None:
    """Three at the same time: one miss, and the answers that each gets of the file itself."""
    picture = encoded(scene(2000).image, "PNG")
    origin.paths["/asked-together.png"] = held(picture, HELD_S)
    paths = [f"{APP}/{task}" for task in ("region-proposal", "object-detection", "caption")]
    with ThreadPoolExecutor(len(paths)) as threads:
        url = f"{origin.url}/asked-together.png"
        together = list(threads.map(lambda path: caller.send(url, path), paths))
    alone = [caller.send(picture, path) for path in paths]

    assert origin.asked["/asked-together.png"] == 1
    said = sorted(each.headers["x-florence-image-cache"] for each in together)
    assert said == ["hit", "hit", "miss"]
    assert [each.headers["x-florence-image-cache"] for each in alone] == ["hit"] * 3
    for one, other in zip(together, alone, strict=True):
        assert one.json()["results"] == other.json()["results"]


def test_object_detection_names_the_shapes(caller: Caller) -> None:
    """At least nine of ten boxes have the right label."""
    right = total = 0
    for seed in range(12):
        shown = scene(seed)
        found = caller.send(shown.image, f"{APP}/object-detection").json()["results"]["bboxes"]
        for thing, pair in zip(shown.objects, match_boxes(truth(shown), found), strict=True):
            total += 1
            right += pair.found is not None and pair.found["label"] == thing.shape

    assert right / total >= 0.9


def test_captions_are_text(caller: Caller) -> None:
    """A caption names the shape of an object, without tokens around it."""
    shown = scene(6)
    answer = caller.send(shown.image, f"{APP}/caption").json()

    assert set(answer) == {"results"}
    assert "<" not in answer["results"]
    assert any(thing.shape in answer["results"] for thing in shown.objects)


def test_good_and_bad_input_do_not_mix(caller: Caller) -> None:
    """Among twenty requests at a time, a third of them bad, each gets its own answer."""
    shown = [scene(seed) for seed in range(40)]
    images = [
        b"no image" if seed % 3 == 0 else encoded(s.image, "PNG") for seed, s in enumerate(shown)
    ]
    with ThreadPoolExecutor(20) as threads:
        responses = list(threads.map(caller.insist, images))
    bad = [response for seed, response in enumerate(responses) if seed % 3 == 0]
    overlaps = [
        pair.iou
        for seed, response in enumerate(responses)
        if seed % 3
        for pair in match_boxes(truth(shown[seed]), response.json()["results"]["bboxes"])
    ]

    assert {(r.status_code, error_type(r)) for r in bad} == {(422, "image_load_error")}
    assert recall(overlaps) >= 0.95
