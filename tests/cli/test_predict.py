"""`florence predict` against a small HTTP server that speaks as the service does."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from deployments.cli import predict as command
from deployments.cli.labelling.sources import read_sources
from deployments.cli.predict import picture_names
from deployments.cli.questions import fields_of
from deployments.errors import ImageLoadError, InternalError, ServiceError, SetupError, Unauthorized
from deployments.florence.schemas import ImageInput
from deployments.local.client import CallError, ServiceClient, data_uri_of_file
from deployments.local.launch import metrics_targets
from deployments.local.state import StateFolder
from tests.cli.conftest import Florence

KEY = "florence-test:secret"
TURNED, WORDS, OUTLINES = "ocr-with-region", "caption-to-phrase-grounding", "region-to-segmentation"
PICTURE = b"\xff\xd8 an annotated picture"
BOX = {"x": 1.5, "y": 2.0, "w": 30.25, "h": 4.0, "label": "red [circle]"}


POINTS = [{"x": 1.0, "y": 2.0}, {"x": 31.0, "y": 2.5}, {"x": 30.0, "y": 9.0}, {"x": 0.4, "y": 8.0}]
SHAPES = {
    TURNED: {"quad_boxes": [BOX | {"label": "STOP", "points": POINTS}]},
    OUTLINES: {
        "polygons": [{"label": "", "points": POINTS[:3]}, {"label": "", "points": POINTS * 3}]
    },
}
CUT = {
    "caption": {"results": "a circle and", "score": 0.5, "truncated": True},
    "region-proposal": {
        "results": {"bboxes": [BOX | {"score": 0.876}, BOX | {"score": 1.0}]},
        "truncated": True,
    },
    "object-detection": {"results": {"bboxes": []}, "truncated": True},
    "ocr": {"results": "", "truncated": True},
}


class Service(BaseHTTPRequestHandler):
    """Answers each image by what is in it."""

    asked: list[tuple[str, str]]
    fields: list[dict[str, Any]]
    model = ""

    def do_POST(self) -> None:
        """Run a task."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image = body["image_url"]
        content = base64.b64decode(image.partition(",")[2]) if image.startswith("data:") else b""
        self.asked.append((self.path, image))
        self.fields.append({name: value for name, value in body.items() if name != "image_url"})
        if self.headers["Authorization"] != f"Key {KEY}":
            self.refuse(Unauthorized())
        elif content == b"broken":
            self.refuse(ImageLoadError("Failed to load\nthe image."))
        elif content == b"bug":
            self.refuse(InternalError())
        elif content == b"page":
            self.say(200, b"<html>")
        elif content == b"other":
            self.say(200, b'{"detail": "another API"}')
        elif content == b"null":
            self.say(200, b'{"results": null}')
        elif content == b"teapot":
            self.say(418, b"short and stout")
        elif content == b"cut":
            self.answer_json(200, CUT[self.path.rpartition("/")[2]])
        elif self.path.endswith("/caption"):
            self.answer_json(200, {"results": "a [/red] circle"})
        elif self.path.endswith(tuple(SHAPES)):
            self.answer_json(200, {"results": SHAPES[self.path.rpartition("/")[2]]})
        else:
            name = "missing" if content == b"lost" else "picture.jpg"
            url = f"http://{self.headers['Host']}/cdn/files/{name}"
            self.answer_json(200, {"results": {"bboxes": [BOX]}, "image": {"url": url}})

    def do_GET(self) -> None:
        """Download a picture."""
        found = self.path == "/cdn/files/picture.jpg"
        self.say(200 if found else 404, PICTURE if found else b"")

    def refuse(self, error: ServiceError) -> None:
        """An error in fal's shape."""
        self.answer_json(error.status, error.body())

    def answer_json(self, status: int, tree: Any) -> None:
        """An answer of JSON."""
        self.say(status, json.dumps(tree).encode())

    def say(self, status: int, body: bytes) -> None:
        """An answer of bytes."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.model:
            self.send_header("x-florence-model", self.model)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The base URL of a running service."""
    monkeypatch.delenv("FLORENCE_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    Service.asked, Service.fields = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def images(folder: Path, **contents: bytes) -> list[str]:
    """Files with these contents."""
    for name, content in contents.items():
        (folder / f"{name}.png").write_bytes(content)
    return [str(folder / f"{name}.png") for name in contents]


def predict(names: list[str], url: str | None, state: Path, **options: Any) -> int:
    """Ask about images; the exit code."""
    chosen: dict[str, Any] = {"key": KEY, "as_json": True} | options
    with pytest.raises(typer.Exit) as left:
        command.predict(names, url, state=state, **chosen)
    return left.value.exit_code


def test_each_image_is_a_line_of_json(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines are the answers as they came, in the images' order, each with its image."""
    names = images(tmp_path, b=b"1", a=b"2", c=b"3")
    assert predict(names, url, tmp_path / "state") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == names
    assert [line["results"] for line in lines] == [{"bboxes": [BOX]}] * 3
    assert all(line["image"]["url"].startswith(url) for line in lines)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("demo", "a photograph is noise"),
        ("a/b@c; dtype=float16; beams=3", "a/b@c; dtype"),
        ("", ""),
    ],
)
def test_who_answered_is_a_line_beside_the_answers(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    words: str,
) -> None:
    """On standard error, so that what reads the answers reads nothing else."""
    monkeypatch.setattr(Service, "model", model)
    predict(images(tmp_path, a=b"1"), url, tmp_path / "state")
    printed = capsys.readouterr()

    assert len(printed.out.splitlines()) == 1
    assert len(printed.err.splitlines()) == bool(model)
    assert words in printed.err


def test_a_file_is_sent_as_it_is(url: str, tmp_path: Path) -> None:
    """The service gets the file's own bytes and type, at the task's own path."""
    predict(images(tmp_path, a=b"content"), url, tmp_path / "state", task="object-detection")
    encoded = base64.b64encode(b"content").decode()
    path = "/fal-ai/florence-2-large/object-detection"
    assert Service.asked == [(path, f"data:image/png;base64,{encoded}")]


def test_a_url_is_sent_as_a_url(url: str, tmp_path: Path) -> None:
    """The service fetches it by itself."""
    predict(["https://example.org/a.png"], url, tmp_path / "state")
    assert [image for _, image in Service.asked] == ["https://example.org/a.png"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"broken", "422: Failed to load the image. (image_load_error)"),
        (b"bug", "500: Something went wrong on our side"),
        (b"page", "the answer is not Florence Serve's: check --url"),
        (b"other", "the answer is not Florence Serve's: check --url"),
        (b"null", "the answer is not Florence Serve's: check --url"),
        (b"teapot", "418 I'm a Teapot"),
    ],
)
def test_a_failure_is_one_line_and_costs_the_others_nothing(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    complaint: str,
) -> None:
    """Exit code 1, one line on standard error that names the image; the others are answered."""
    names = images(tmp_path, a=b"1", bad=content, c=b"3")
    assert predict(names, url, tmp_path / "state") == 1
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert line.lower().startswith(f"{names[1]}: {complaint}".lower())
    answered = [json.loads(text)["input"] for text in printed.out.splitlines()]
    assert answered == [names[0], names[2]]


def test_a_name_that_is_no_unicode_is_shown_all_the_same(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux allows it, and a terminal does not."""
    monkeypatch.chdir(tmp_path)
    Path("\udcff.png").write_bytes(b"1")
    assert predict(["\udcff.png", "none\udcff.png"], url, tmp_path, as_json=False) == 1
    printed = capsys.readouterr()
    assert " ?.png " in printed.out
    assert printed.err == "none?.png: No such file or directory\n"


def test_a_missing_file_is_one_line(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not there is named; so is a name that could not be there."""
    missing, endless = str(tmp_path / "none.png"), "x" * 5000
    assert predict([missing, endless], url, tmp_path / "state") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{missing}: No such file or directory"
    assert second == f"{'x' * 200}: File name too long"
    assert Service.asked == []


def test_a_service_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens: that is said once, however many images there are."""
    names = images(tmp_path, a=b"1", b=b"2")
    assert predict(names, "http://127.0.0.1:1", tmp_path / "state") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "no answer from http://127.0.0.1:1" in line


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("https://example.org/\udcff.png", {}),
        ("https://example.org/x.png", {"text": "caf\udce9", "task": WORDS}),
        ("https://example.org/x.png", {"key": "schlüssel"}),
    ],
    ids=["URL", "text", "key"],
)
def test_what_cannot_be_sent_is_one_line(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: dict[str, Any]
) -> None:
    """A shell passes on bytes that are no letters."""
    assert predict([name], url, tmp_path / "state", **options) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert ": cannot be sent: " in line
    assert Service.asked == []


def test_a_wrong_key_is_reported(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service's own words reach the user."""
    assert predict(images(tmp_path, a=b"1"), url, tmp_path / "state", key="other") == 1
    assert "401: Authentication is required" in capsys.readouterr().err


def test_pictures_are_kept(url: str, tmp_path: Path) -> None:
    """Each annotated picture is downloaded under the name of its image."""
    names = images(tmp_path, a=b"1", b=b"2")
    assert predict(names, url, tmp_path / "state", out=tmp_path / "new" / "out") == 0
    found = {file.name: file.read_bytes() for file in (tmp_path / "new" / "out").iterdir()}
    assert found == {"a.annotated.jpg": PICTURE, "b.annotated.jpg": PICTURE}


def test_a_lost_picture_is_a_failure(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing picture is reported."""
    names = images(tmp_path, a=b"lost")
    assert predict(names, url, tmp_path / "state", out=tmp_path / "out") == 1
    assert f"{names[0]}: 404" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_a_failure(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the picture."""
    names = images(tmp_path, a=b"1", b=b"2")
    blocked = tmp_path / "out" / "a.annotated.jpg"
    blocked.mkdir(parents=True)
    assert predict(names, url, tmp_path / "state", out=tmp_path / "out") == 1
    assert f"cannot write {blocked}: Is a directory" in capsys.readouterr().err
    assert (tmp_path / "out" / "b.annotated.jpg").read_bytes() == PICTURE


@pytest.mark.parametrize(
    ("task", "cells"),
    [("region-proposal", ["1.5", "2.0", "30.2", "4.0", "red [circle]"]), ("caption", ["[/red]"])],
)
def test_a_person_gets_a_table(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    cells: list[str],
) -> None:
    """Boxes and texts are shown as they are, brackets too."""
    predict(images(tmp_path, a=b"1"), url, tmp_path / "state", task=task, as_json=False)
    out = capsys.readouterr().out
    assert all(cell in out for cell in cells)


@pytest.mark.parametrize(
    ("task", "cells"),
    [
        ("region-proposal", ["score", "0.88", "1.00"]),
        ("caption", ["score", "a circle and", "0.50"]),
        ("object-detection", ["(nothing found)"]),
        ("ocr", ["(nothing found)"]),
    ],
)
def test_scores_and_a_cut_stand_in_the_table(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: str,
    cells: list[str],
) -> None:
    """A column where there are scores, and a row below an answer that its limit cut."""
    monkeypatch.chdir(tmp_path)
    names = images(Path(), whole=b"1", short=b"cut")
    predict(names, url, tmp_path / "state", task=task, as_json=False)
    out = capsys.readouterr().out
    assert [cell for cell in cells if cell not in out] == []
    assert out.count("(cut at the limit of tokens)") == 1
    assert out.index("short.png") < out.index("(cut at the limit of tokens)")


def test_a_table_without_scores_has_no_column_of_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does it speak of a cut."""
    monkeypatch.chdir(tmp_path)
    predict(images(Path(), a=b"1"), url, tmp_path / "state", as_json=False)
    out = capsys.readouterr().out
    assert "score" not in out
    assert "cut" not in out


def test_every_task_is_asked_with_the_options_for_all(
    url: str, florence: Florence, tmp_path: Path
) -> None:
    """Under the names of the inputs' fields."""
    [image] = images(tmp_path, a=b"1")
    options = ["--scores", "--min-score=0.25", "--max-new-tokens=9", "--no-repeat-ngram-size=0"]
    common = ("predict", image, "--url", url, "--key", KEY, "--json")
    left = florence(*common, "--task", "caption,region-proposal", *options)
    assert (left.code, left.err) == (0, "")
    fields = {"scores": True, "min_score": 0.25, "max_new_tokens": 9, "no_repeat_ngram_size": 0}
    assert Service.fields == [fields, fields]
    assert ImageInput.model_validate({"image_url": "u", **fields}).is_scored

    assert florence(*common).code == 0
    assert Service.fields[2:] == [{}]


@pytest.mark.parametrize(
    "option",
    ["--min-score 1.5", "--min-score -1", "--max-new-tokens 0", "--no-repeat-ngram-size 33"],
)
def test_an_option_beyond_its_bounds_is_one_line(
    url: str, florence: Florence, tmp_path: Path, option: str
) -> None:
    """Before any request."""
    left = florence("predict", str(tmp_path), "--url", url, "--key", KEY, *option.split())
    [line] = left.err.splitlines()
    assert left.code == 2
    assert option.split()[0] in line
    assert Service.asked == []


def test_a_folder_without_an_image_is_said(url: str, florence: Florence, tmp_path: Path) -> None:
    """In one line that names it, and exit code 1; other images are answered all the same."""
    for name in ("empty", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "notes.dat").touch()
    folders = [str(tmp_path / name) for name in ("empty", "notes")]
    common = ("--url", url, "--key", KEY, "--out", str(tmp_path / "out"))
    left = florence("predict", *folders, *common)
    [line] = left.err.splitlines()
    assert (left.code, left.out) == (1, "")
    assert line.startswith(f"no image in {folders[0]}, {folders[1]}: ")
    assert not (tmp_path / "out").exists()

    left = florence("predict", *folders, *images(tmp_path, a=b"1"), *common)
    assert left.code == 1
    assert "red [circle]" in left.out


@pytest.mark.parametrize(
    ("task", "cells"),
    [
        (TURNED, ["1.5", "30.2", "STOP", "1,2 31,2 30,9 0,8"]),
        (OUTLINES, ["1.0", "2.0", "30.0", "7.0", "1,2 31,2 30,9", "12"]),
    ],
)
def test_turned_text_and_outlines_are_rows_with_their_corners(
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    cells: list[str],
) -> None:
    """An outline has the rectangle around it; of many corners, only the number is shown."""
    region = "1,2,3,4" if task == OUTLINES else None
    names = images(tmp_path, a=b"1")
    predict(names, url, tmp_path / "state", task=task, as_json=False, region=region)
    out = capsys.readouterr().out
    assert [cell for cell in cells if cell not in out] == []


def test_each_task_gets_the_fields_that_it_takes(url: str, tmp_path: Path) -> None:
    """Of several tasks, one that takes no words gets none."""
    names, tasks = images(tmp_path, a=b"1"), f"{WORDS},{OUTLINES},caption"
    predict(names, url, tmp_path / "state", task=tasks, text="a cat", region="-1, 2,30,40")
    region = {"x1": -1, "y1": 2, "x2": 30, "y2": 40}
    assert sorted(map(str, Service.fields)) == sorted(
        map(str, ({"text_input": "a cat"}, {"region": region}, {}))
    )


def test_empty_words_are_words(url: str, tmp_path: Path) -> None:
    """As in fal's own examples."""
    names = images(tmp_path, a=b"1")
    assert predict(names, url, tmp_path / "state", task=WORDS, text="") == 0
    assert Service.fields == [{"text_input": ""}]


@pytest.mark.parametrize(
    ("task", "options", "line"),
    [
        (WORDS, {}, f"{WORDS} needs --text TEXT"),
        (f"caption,{WORDS}", {}, f"{WORDS} needs --text TEXT"),
        (OUTLINES, {"text": "x"}, f"{OUTLINES} needs --region X1,Y1,X2,Y2"),
        ("caption", {"text": "x"}, f"caption takes no --text: it is for .*{WORDS}"),
        (
            WORDS,
            {"text": "x", "region": "1,2,3,4"},
            f"{WORDS} takes no --region: it is for .*{OUTLINES}",
        ),
    ],
)
def test_an_option_that_is_missing_or_of_no_use_is_refused(
    url: str, tmp_path: Path, task: str, options: dict[str, str], line: str
) -> None:
    """Before any request, in one line that says which."""
    with pytest.raises(SetupError, match=line):
        predict(["a.png"], url, tmp_path / "state", task=task, **options)
    assert Service.asked == []


@pytest.mark.parametrize("region", ["", "1,2,3", "1,2,3,4,5", "0.1,0,1,1", "a,b,c,d", "1 2 3 4"])
def test_a_region_that_is_none_is_refused(region: str) -> None:
    """The line has an example."""
    with pytest.raises(SetupError, match="as in 100,100,200,200"):
        fields_of(None, region)


def test_a_task_may_have_its_whole_path(url: str, tmp_path: Path) -> None:
    """As it is copied from an address."""
    task = "/fal-ai/florence-2-large/caption"
    assert predict(images(tmp_path, a=b"1"), url, tmp_path / "state", task=task) == 0
    assert [path for path, _ in Service.asked] == [task]


TASKS = ["object-detection", "caption", "region-proposal"]


def test_several_tasks_are_a_line_each(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every task is asked once about every image, in the order given."""
    names = images(tmp_path, a=b"1", b=b"2")
    assert predict(names, url, tmp_path / "state", task=" , ".join([*TASKS, "caption"])) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["input"], line["task"]) for line in lines] == list(product(names, TASKS))
    assert lines[1]["results"] == "a [/red] circle"
    assert lines[0]["results"] == {"bboxes": [BOX]}
    assert len(Service.asked) == 6


def test_several_tasks_are_asked_at_the_same_time(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service has all of them before it answers the first."""
    together = threading.Barrier(len(TASKS), timeout=30.0)
    answer = Service.do_POST

    def wait_for_all(service: Service) -> None:
        together.wait()
        answer(service)

    monkeypatch.setattr(Service, "do_POST", wait_for_all)
    names = images(tmp_path, a=b"1")
    assert predict(names, url, tmp_path / "state", task=",".join(TASKS)) == 0


def test_several_tasks_are_a_table_each(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the name of the task, in the order asked."""
    task, names = ",".join(TASKS), images(tmp_path, a=b"1")
    predict(names, url, tmp_path / "state", task=task, as_json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line in TASKS] == TASKS
    caption = lines[lines.index("caption") : lines.index("region-proposal")]
    assert any("[/red]" in line for line in caption)


def test_one_task_that_fails_costs_the_others_nothing(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the image and the task."""
    names = images(tmp_path, a=b"1", bad=b"broken")
    assert predict(names, url, tmp_path / "state", task="caption,region-proposal") == 1
    printed = capsys.readouterr()
    complaint = "422: Failed to load the image. (image_load_error)"
    assert printed.err.splitlines() == [
        f"{names[1]}: {task}: {complaint}" for task in ("caption", "region-proposal")
    ]
    assert [json.loads(line)["input"] for line in printed.out.splitlines()] == names[:1] * 2


def test_the_pictures_of_several_tasks_are_named_for_them(url: str, tmp_path: Path) -> None:
    """One that has no picture leaves none."""
    names, out = images(tmp_path, a=b"1"), tmp_path / "out"
    assert predict(names, url, tmp_path / "state", task=",".join(TASKS), out=out) == 0
    found = sorted(file.name for file in out.iterdir())
    assert found == ["a.object-detection.annotated.jpg", "a.region-proposal.annotated.jpg"]


def test_the_local_services_key_is_used(url: str, tmp_path: Path) -> None:
    """Without a key, the one that a service on this machine made is taken."""
    state = tmp_path / "state"
    StateFolder(state).api_key()
    (state / "api_key").write_text(KEY + "\n")
    assert predict(images(tmp_path, a=b"1"), url, state, key=None) == 0


def test_the_local_service_is_found(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it answers, by what it left in its folder."""
    monkeypatch.setattr("deployments.local.launch.exporter_addresses", list)
    state = StateFolder(tmp_path / "state")
    with metrics_targets(state, url):
        assert predict(images(tmp_path, a=b"1"), None, state.folder) == 0
    assert state.service_url() is None


def test_no_key_is_refused(url: str, tmp_path: Path) -> None:
    """One line says where to give one."""
    with pytest.raises(SetupError, match="--key or in FLORENCE_API_KEY"):
        predict(images(tmp_path, a=b"1"), url, tmp_path / "state", key=None)


def test_an_unknown_task_is_refused(url: str, tmp_path: Path) -> None:
    """The line names those that there are."""
    for task in ("dance", "caption,dance", "caption,", ""):
        with pytest.raises(SetupError, match="takes one of region-proposal, "):
            predict(["a.png"], url, tmp_path / "state", task=task)


def test_a_folder_that_cannot_be_made_is_refused(url: str, tmp_path: Path) -> None:
    """It is refused before any request."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="choose another --out"):
        predict(["a.png"], url, tmp_path / "state", out=tmp_path / "file")
    assert Service.asked == []


@pytest.mark.parametrize("address", ["http://a:b", "http://\udcff"])
def test_what_is_no_url_is_refused(tmp_path: Path, address: str) -> None:
    """The line names it."""
    with pytest.raises(SetupError, match="is no URL of a service"):
        ServiceClient(address, KEY)


def test_folders_are_replaced_by_their_images(tmp_path: Path) -> None:
    """Images in order of their names, each once; what is no image is passed over."""
    for name in ("b.PNG", "a.jpeg", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "below.png").mkdir()
    names = [str(tmp_path / name) for name in ("a.jpeg", "b.PNG", "c.webp")]
    asked = ["https://example.org/x", str(tmp_path), names[1], "https://example.org/x", "gone.png"]
    found = read_sources(asked)
    # The file was named by itself, too, and is the same picture.
    assert [each.name for each in found.found] == ["https://example.org/x", *names, "gone.png"]
    assert found.notes == [f"{tmp_path}: 1 folders in it were left out; -r looks into them"]


addresses = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(
        ["a/x.png", "b/x.jpg", "x", "x-2.png", "https://h/x.png?y", "http://[::1", "/"]
    ),
)


@given(names=st.lists(addresses, unique=True, max_size=12))
def test_every_picture_has_a_name_of_its_own(names: list[str]) -> None:
    """No picture overwrites another, and none leaves the folder."""
    pictures = picture_names(names, ["caption", "ocr"], Path("out"))
    assert list(pictures) == [(name, task) for name in names for task in ("caption", "ocr")]
    assert len(set(pictures.values())) == 2 * len(names)
    assert all(picture.parent == Path("out") for picture in pictures.values())


def test_pictures_are_named_for_their_images() -> None:
    """Images of the same name get a number."""
    names = ["a/x.png", "b/x.jpg", "https://example.org/y.png?z=1", "data:image/png;base64,AA"]
    found = [picture.name for picture in picture_names(names, ["ocr"], Path("out")).values()]
    assert found == [
        "x.annotated.jpg",
        "x-2.annotated.jpg",
        "y.annotated.jpg",
        "image.annotated.jpg",
    ]
    [picture] = picture_names(["http://[::1"], ["ocr"], Path("out")).values()
    assert picture.name == "image.annotated.jpg"


def test_a_file_of_unknown_kind_is_bytes(tmp_path: Path) -> None:
    """The service finds out by itself what it is."""
    (tmp_path / "image").write_bytes(b"x")
    assert data_uri_of_file(tmp_path / "image") == "data:application/octet-stream;base64,eA=="
    with pytest.raises(CallError, match="Is a directory"):
        data_uri_of_file(tmp_path)
