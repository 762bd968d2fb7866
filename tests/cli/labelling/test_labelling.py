"""`florence predict` for folders: every picture once, whatever happens to the client."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from deployments.cli.labelling.journal import Journal
from deployments.cli.labelling.outputs import files_of
from deployments.cli.labelling.pace import Pace
from deployments.cli.labelling.record import Record
from deployments.cli.labelling.sources import read_sources
from deployments.errors import SetupError
from tests.cli.conftest import Florence
from tests.cli.labelling.service import BOXES, KEY, florence_service
from tests.cli.labelling.service import Florence as Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:OpenCV:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
SIZE = (64, 48)


def pictures(folder: Path, number: int) -> Path:
    """A folder of different pictures."""
    folder.mkdir(parents=True)
    for each in range(number):
        colour = (each % 256, each // 256, 7)
        Image.new("RGB", SIZE, colour).save(folder / f"{each:04}.png")
    return folder


def words(service: Service, *more: object) -> list[str]:
    """A command about this service."""
    return ["predict", *map(str, more), "--url", service.url, "--key", KEY]


def lines(file: Path) -> list[dict[str, Any]]:
    """The records in a file, all of which are whole."""
    text = file.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_key_with_two_places_gets_all_answers(florence: Florence, tmp_path: Path) -> None:
    """Refusals are waited for, not failed; few are made."""
    folder, out = pictures(tmp_path / "in", 40), tmp_path / "out.jsonl"
    with florence_service(limit=2, delay_s=0.01) as service:
        left = florence(*words(service, folder, "-o", out))
        assert left.code == 0, left.err
        assert len(lines(out)) == 40
        assert service.most_running == 2
        assert service.num_refused < 40
    assert "40 answered in" in left.err


def test_it_goes_as_fast_as_it_may(florence: Florence, tmp_path: Path) -> None:
    """`--parallel` is the upper bound."""
    folder = pictures(tmp_path / "in", 60)
    with florence_service(delay_s=0.1) as service:
        assert florence(*words(service, folder, "--json", "--parallel", 5)).code == 0
        assert 2 <= service.most_running <= 5


def test_a_service_that_restarts_costs_nothing(florence: Florence, tmp_path: Path) -> None:
    """Its client waits until it answers again."""
    folder, out = pictures(tmp_path / "in", 30), tmp_path / "out.jsonl"
    with florence_service(delay_s=0.05) as service:
        process = start(words(service, folder, "-o", out, "--parallel", 2))
        until(lambda: out.exists() and len(out.read_bytes().splitlines()) > 3)
        service.is_down = True
        time.sleep(1.0)
        service.is_down = False
        assert process.wait(30) == 0
    assert len(lines(out)) == 30


def test_what_is_done_is_not_asked_again(florence: Florence, tmp_path: Path) -> None:
    """By content and task: a renamed picture is not asked about either, another task is."""
    folder, out = pictures(tmp_path / "in", 12), tmp_path / "out.jsonl"
    with florence_service() as service:
        assert florence(*words(service, folder, "-o", out)).code == 0
        (folder / "0000.png").rename(folder / "renamed.png")
        left = florence(*words(service, folder, "-o", out, "--task", "caption,region-proposal"))
        assert left.code == 0
        assert set(service.asked.values()) == {1}
        assert sum(service.asked.values()) == 24
        assert "11 done before, 1 of the same content" in left.err
        assert len(lines(out)) == 25
        florence(*words(service, folder, "-o", out, "--no-resume"))
        assert len(lines(out)) == 12


def test_pictures_of_the_same_content_are_asked_about_once(
    florence: Florence, tmp_path: Path
) -> None:
    """Each has its record."""
    folder = pictures(tmp_path / "in", 1)
    for number in range(20):
        (folder / f"copy{number}.png").write_bytes((folder / "0000.png").read_bytes())
    with florence_service(delay_s=0.01) as service:
        left = florence(*words(service, folder, "--json"))
        assert sum(service.asked.values()) == 1
    names = [json.loads(line)["input"] for line in left.out.splitlines()]
    assert names == sorted(map(str, folder.iterdir()))


def test_failures_are_records_beside_and_are_tried_again(
    florence: Florence, tmp_path: Path
) -> None:
    """The output has answers alone; a later run asks what has failed."""
    folder, out = pictures(tmp_path / "in", 20), tmp_path / "out.csv"
    beside = tmp_path / "out.csv.errors.jsonl"
    with florence_service(fails_every=5) as service:
        left = florence(*words(service, folder, "-o", out, "--format", "csv"))
        assert left.code == 1
        assert "4 failed" in left.err
        failed = lines(beside)
        assert [each["error"] for each in failed] == ["422: bad picture"] * 4
        service.fails_every = 0
        assert florence(*words(service, folder, "-o", out, "--format", "csv")).code == 0
    assert not beside.exists()
    rows = list(csv.DictReader(out.open()))
    assert sorted(row["input"] for row in rows) == sorted(map(str, folder.iterdir()))


def test_a_queued_job_is_found_again(florence: Florence, tmp_path: Path) -> None:
    """A picture and task is one job, whoever asks again."""
    folder = pictures(tmp_path / "in", 10)
    with florence_service() as service:
        for name in ("a.jsonl", "b.jsonl"):
            out = tmp_path / name
            assert florence(*words(service, folder, "-o", out, "--queue")).code == 0
            assert len(lines(out)) == 10
        assert set(service.asked.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["jsonl", "csv", "coco", "yolo", "labelstudio"])
def test_a_kill_leaves_whole_records(tmp_path: Path, format_: str) -> None:
    """At any moment, in every format; the next run goes on, and nothing is lost or asked again."""
    folder, out = pictures(tmp_path / "in", 120), tmp_path / "out"
    journal = files_of(out, format_)[0]
    rng, seen = random.Random(format_), [0]
    with florence_service(delay_s=0.01) as service:
        command = words(service, folder, "-o", out, "--format", format_, "--queue")
        command += ["--task", "object-detection", "--parallel", "4"]
        for _ in range(3):
            process = start(command)
            until(lambda: journal.exists() and len(journal.read_bytes()) > seen[0] + 2000)
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            seen[0] = len(journal.read_bytes())
            assert num_pictures(out, format_) < 120
        assert start(command).wait(60) == 0
        assert num_pictures(out, format_) == 120
        assert set(service.asked.values()) == {1}
        assert len(service.asked) == 120


def num_pictures(out: Path, format_: str) -> int:
    """How many pictures a file has; it is valid."""
    if format_ == "yolo":
        names = yaml.safe_load((out / "data.yaml").read_text())["names"]
        files = list(out.glob("labels/*.txt"))
        for file in files:
            for line in file.read_text().splitlines():
                number, *numbers = line.split()
                assert int(number) < len(names)
                assert len(numbers) == 4
        return len(files)
    text = out.read_text()
    if format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert all(None not in row.values() and None not in row for row in rows)
        return len({row["input"] for row in rows})
    if format_ == "jsonl":
        return len(lines(out))
    tree = json.loads(text)
    return len(tree["images"] if format_ == "coco" else tree)


def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )


def until(is_so: Any) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_coco_loads_where_people_load_it(florence: Florence, tmp_path: Path) -> None:
    """In pycocotools and supervision, with boxes, labels and sizes."""
    import supervision
    from pycocotools.coco import COCO

    folder, out = pictures(tmp_path / "in", 3), tmp_path / "coco.json"
    tasks = "object-detection,referring-expression-segmentation"
    with florence_service() as service:
        more = ("-o", out, "--format", "coco", "--task", tasks, "--text", "a cat")
        assert florence(*words(service, folder, *more)).code == 0
    coco = COCO(str(out))
    names = [each["file_name"] for each in coco.loadImgs(coco.getImgIds())]
    assert sorted(names) == ["0000.png", "0001.png", "0002.png"]
    assert {each["name"] for each in coco.loadCats(coco.getCatIds())} == {"cat", "object", "a cat"}
    annotations = sorted(coco.loadAnns(coco.getAnnIds(imgIds=[1])), key=lambda each: -each["area"])
    assert [each["bbox"] for each in annotations] == [
        [0.0, 0.0, 64.0, 48.0], [10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 30.0, 10.0],
    ]  # fmt: skip
    assert [each["area"] for each in annotations] == [3072.0, 1200.0, 300.0]
    assert coco.annToMask(annotations[2]).sum() == pytest.approx(300, abs=45)
    dataset = supervision.DetectionDataset.from_coco(str(folder), str(out))
    assert len(dataset) == 3
    for _path, _image, detections in dataset:
        assert [10.0, 20.0, 40.0, 60.0] in detections.xyxy.tolist()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("object-detection", [[10.0, 20.0, 40.0, 60.0], [0.0, 0.0, 64.0, 48.0]]),
        ("referring-expression-segmentation", [[1.0, 2.0, 31.0, 12.0]]),
        ("region-proposal", []),
    ],
)
def test_yolo_loads_where_people_load_it(
    florence: Florence, tmp_path: Path, task: str, expected: list[list[float]]
) -> None:
    """In supervision: boxes as boxes, outlines as outlines, and a file for a picture of nothing."""
    import supervision

    folder, out = pictures(tmp_path / "in", 3), tmp_path / "yolo"
    more: list[object] = ["-o", out, "--format", "yolo", "--task", task]
    if "segmentation" in task:
        more += ["--text", "a cat"]
    with florence_service() as service:
        assert florence(*words(service, folder, *more)).code == 0
    dataset = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(folder),
        annotations_directory_path=str(out / "labels"),
        data_yaml_path=str(out / "data.yaml"),
    )
    assert len(dataset) == len(list((out / "labels").iterdir())) == 3
    for _path, _image, detections in dataset:
        assert detections.xyxy.tolist() == [pytest.approx(each, abs=1.0) for each in expected]


def test_label_studio_takes_the_tasks(florence: Florence, tmp_path: Path) -> None:
    """By its schema of an import: places in percent, kinds that the labelling interface names."""
    from jsonschema import validate

    folder, out = pictures(tmp_path / "in", 2), tmp_path / "tasks.json"
    tasks = "object-detection,referring-expression-segmentation,caption"
    with florence_service() as service:
        more = ("-o", out, "--format", "labelstudio", "--task", tasks, "--text", "a cat")
        assert florence(*words(service, folder, *more)).code == 0
    tree = json.loads(out.read_text())
    validate(tree, IMPORT)
    names = sorted(each["data"]["image"] for each in tree)
    assert names == ["/data/local-files/?d=0000.png", "/data/local-files/?d=0001.png"]
    found = {each["model_version"]: each["result"] for each in tree[0]["predictions"]}
    [box, _] = found["florence-2 object-detection"]
    assert box["value"] == {
        "x": 15.625, "y": pytest.approx(41.667, abs=0.001), "width": 46.875,
        "height": pytest.approx(83.333, abs=0.001), "rotation": 0, "rectanglelabels": ["cat"],
    }  # fmt: skip
    assert box["score"] == 0.75
    assert found["florence-2 caption"][0]["value"] == {"text": ["a cat, asleep"]}


PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
LABELS = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
# As https://labelstud.io/guide/predictions describes it.
IMPORT: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "additionalProperties": {"type": "string"}},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "result": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["id", "type", "from_name", "to_name", "value"],
                                "properties": {"score": {"type": "number"}},
                                "oneOf": [
                                    {
                                        "required": ["original_width", "original_height"],
                                        "properties": {
                                            "type": {"const": "rectanglelabels"},
                                            "value": {
                                                "required": [
                                                    "x", "y", "width", "height", "rotation",
                                                    "rectanglelabels",
                                                ],
                                                "properties": {
                                                    "x": PERCENT, "y": PERCENT, "width": PERCENT,
                                                    "height": PERCENT, "rectanglelabels": LABELS,
                                                },
                                            },
                                        },
                                    },
                                    {
                                        "required": ["original_width", "original_height"],
                                        "properties": {
                                            "type": {"const": "polygonlabels"},
                                            "value": {
                                                "required": ["points", "polygonlabels"],
                                                "properties": {
                                                    "points": {
                                                        "type": "array",
                                                        "minItems": 3,
                                                        "items": {
                                                            "type": "array", "items": PERCENT,
                                                            "minItems": 2, "maxItems": 2,
                                                        },
                                                    },
                                                    "polygonlabels": LABELS,
                                                },
                                            },
                                        },
                                    },
                                    {
                                        "properties": {
                                            "type": {"const": "textarea"},
                                            "value": {
                                                "required": ["text"],
                                                "properties": {"text": LABELS},
                                            },
                                        },
                                    },
                                ],
                            },
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip


def test_csv_goes_to_standard_output(florence: Florence, tmp_path: Path) -> None:
    """A header, a row for each thing, and scores where there are some."""
    folder = pictures(tmp_path / "in", 1)
    with florence_service() as service:
        left = florence(*words(service, folder, "--format", "csv", "--task", "object-detection"))
    rows = list(csv.DictReader(io.StringIO(left.out)))
    assert [(row["label"], row["x"], row["score"]) for row in rows] == [
        (box["label"], str(box["x"]), str(box.get("score", ""))) for box in BOXES
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--format", "xml"], "no format xml: --format takes one of table, jsonl, csv, coco"),
        (["--format", "coco"], "--format coco needs --output FILE"),
        (["--format", "yolo"], "--format yolo needs --output FOLDER"),
        (["--format", "table", "-o", "x"], "--output needs --format: one of jsonl, csv"),
        (["--format", "coco", "-o", "x", "--task", "caption"], "caption finds no shapes"),
        (["-o", "/dev/null/x.jsonl"], "cannot write /dev/null"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_written_is_one_line(
    florence: Florence, tmp_path: Path, options: list[str], line: str
) -> None:
    """Exit code 2, before any request."""
    folder = pictures(tmp_path / "in", 1)
    with florence_service() as service:
        left = florence(*words(service, folder, *options))
        assert not service.asked
    assert (left.code, left.out) == (2, "")
    [complaint] = left.err.splitlines()
    assert line in complaint


@pytest.mark.parametrize(("name", "format_"), [("mine.jsonl", "jsonl"), ("mine.json", "coco")])
def test_a_file_of_something_else_is_not_written_over(
    florence: Florence, tmp_path: Path, name: str, format_: str
) -> None:
    """Unless that is said."""
    folder, out = pictures(tmp_path / "in", 1), tmp_path / name
    out.write_text('{"mine": 1}\n')
    with florence_service() as service:
        more = ("-o", out, "--format", format_, "--task", "object-detection")
        left = florence(*words(service, folder, *more))
        assert (left.code, out.read_text()) == (2, '{"mine": 1}\n')
        assert "is not of an earlier run: name another --output, or replace it with" in left.err
        assert florence(*words(service, folder, *more, "--no-resume")).code == 0


def test_what_a_kill_has_cut_is_removed(tmp_path: Path) -> None:
    """And all before it stays."""
    file = tmp_path / "journal.jsonl"
    record = Record("a.png", "a.png", "sha256:1", "caption", {}, {"results": "a cat"})
    journal = Journal(file, resume=True)
    journal.add(record)
    journal.close()
    whole = file.read_bytes()
    for length in range(1, len(whole)):
        file.write_bytes(whole + whole[:length])
        opened = Journal(file, resume=True)
        assert list(opened.records()) == [record]
        assert ("a.png", record.key) in opened
        opened.close()
        assert file.read_bytes() == whole


# ------------------------------------------------------------------------ sources


def test_folders_are_entered_when_that_is_said(tmp_path: Path) -> None:
    """Else they are mentioned."""
    pictures(tmp_path / "in" / "below", 2)
    found = read_sources([str(tmp_path / "in")])
    assert (found.found, found.empty) == ([], [str(tmp_path / "in")])
    assert "1 folders in it were left out; -r looks into them" in found.notes[0]
    found = read_sources([str(tmp_path / "in")], recursive=True)
    assert [each.short for each in found.found] == ["below/0000.png", "below/0001.png"]
    assert found.notes == []


def test_patterns_are_files(tmp_path: Path) -> None:
    """Also where no shell has read them, as in quotes."""
    folder = pictures(tmp_path / "in", 3)
    found = read_sources([f"{folder}/*1.png", f"{tmp_path}/**/*2.png", f"{folder}/*.gif"])
    assert [Path(each.name).name for each in found.found] == ["0001.png", "0002.png"]
    assert found.empty == [f"{folder}/*.gif"]


def test_lists_name_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name or an object a line, from the list's own folder; or on standard input."""
    (tmp_path / "list.txt").write_text("a.png\n\nhttps://h.example/b.png\n/c.png\n")
    objects = [{"image": "a.png", "text_input": "a cat"}, {"image_url": "https://h.example/b.png"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(each) + "\n" for each in objects))
    monkeypatch.setattr(sys, "stdin", io.StringIO("d.png\n"))
    found = read_sources([str(tmp_path / "list.txt"), str(tmp_path / "list.jsonl"), "-"]).found
    assert [(each.name, dict(each.fields)) for each in found] == [
        (str(tmp_path / "a.png"), {}),
        ("https://h.example/b.png", {}),
        ("/c.png", {}),
        (str(tmp_path / "a.png"), {"text_input": "a cat"}),
        ("d.png", {}),
    ]


def test_a_line_of_a_list_has_its_own_words(florence: Florence, tmp_path: Path) -> None:
    """They go before those of the command line."""
    folder = pictures(tmp_path / "in", 2)
    lines_ = [{"image": "0000.png", "text_input": "a dog"}, {"image": "0001.png"}]
    (folder / "list.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines_))
    task = "referring-expression-segmentation"
    with florence_service() as service:
        more = ("--task", task, "--text", "a cat", "--json")
        left = florence(*words(service, folder / "list.jsonl", *more))
    assert left.code == 0, left.err
    fields = [json.loads(line)["fields"]["text_input"] for line in left.out.splitlines()]
    assert fields == ["a dog", "a cat"]


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    """With the line that is wrong."""
    (tmp_path / "list.jsonl").write_text('{"image": "a.png"}\n{"name": "b.png"}\n')
    with pytest.raises(SetupError, match=r"list.jsonl, line 2 names no picture"):
        read_sources([str(tmp_path / "list.jsonl")])
    with pytest.raises(SetupError, match="cannot read the list"):
        read_sources([str(tmp_path / "none.txt")])


def test_the_pace_follows_what_is_accepted() -> None:
    """It grows with answers, falls to what was taken, and tries one more after a while."""
    pace = Pace(8)
    rounds = [pace.begin() for _ in range(4)]
    for _ in range(4):
        pace.answered()
    assert pace.limit == 8
    rounds = [pace.begin() for _ in range(8)]
    for each in rounds[2:]:
        pace.refused(each)
    assert pace.limit == 2
    pace.answered()
    assert pace.limit == 2
    time.sleep(1.1)
    pace.answered()
    assert pace.limit == 3
