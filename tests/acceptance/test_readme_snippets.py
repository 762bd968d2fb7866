"""README's blocks do what it says, run as they are printed, but for the address and the key."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.local.launch import metrics_targets
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from tests.acceptance.caller import Caller
from tests.acceptance.client_scripts import NEWEST, OLDEST, installed, node
from tests.acceptance.snippets import blocks, replaced, run_shell
from tests.acceptance.tls_proxy import TlsProxy

README = "README.md"
ADDRESS, KEY = "127.0.0.1:8000", "florence-…"
SHELL = blocks(README, "sh")
[ANSWER] = blocks(README, "json")
FLORENCE = ".venv/bin/florence "


def block(language: str, words: str) -> str:
    """The one block of README that has these words."""
    [found] = [text for text in blocks(README, language) if words in text]
    return found


def lines(words: str) -> list[str]:
    """The command lines of README that begin with these words."""
    return [line for text in SHELL for line in text.splitlines() if line.startswith(words)]


@pytest.fixture(scope="module")
def home(state: StateFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the usual state folder is the service's."""
    home = tmp_path_factory.mktemp("home")
    folder = home / ".local" / "state"
    folder.mkdir(parents=True)
    (folder / "florence").symlink_to(state.folder)
    return {"HOME": str(home), "XDG_STATE_HOME": "", "COLUMNS": "200"}


def address(url: str) -> str:
    return url.partition("://")[2]


def without_names(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the picture's name and URL, which are random in each answer."""
    kept = {key: value for key, value in answer["image"].items() if key not in ("url", "file_name")}
    return answer | {"image": kept}


def check(answer: dict[str, Any]) -> None:
    """The answer is the one that README shows."""
    shown = json.loads(ANSWER)
    assert without_names(answer) == without_names(shown)
    assert answer["image"].keys() == shown["image"].keys()
    assert answer["image"]["url"].endswith(answer["image"]["file_name"])


def test_curl(caller: Caller) -> None:
    """The answer of the demo checkpoint is the one that README shows."""
    script = replaced(block("sh", "curl "), (ADDRESS, address(caller.url)), (KEY, caller.key))
    check(json.loads(run_shell(script, {})))


def test_javascript(caller: Caller, tmp_path: Path) -> None:
    """The same answer by fal's JavaScript client."""
    (tmp_path / "node_modules").symlink_to(installed(NEWEST) / "node_modules")
    script = tmp_path / "first.mjs"
    script.write_text(replaced(block("js", "fal.run"), (ADDRESS, address(caller.url))))

    printed = run_shell(f"{node()} {script}", {"FLORENCE_API_KEY": caller.key})

    check(json.loads(printed))


@pytest.mark.parametrize("version", [OLDEST])
def test_an_older_javascript_client_sends_nothing(tmp_path: Path, version: str) -> None:
    """The script throws before it is configured."""
    (tmp_path / "node_modules").symlink_to(installed(version) / "node_modules")
    script = tmp_path / "first.mjs"
    script.write_text(block("js", "fal.run"))
    done = subprocess.run(
        [node(), str(script)],
        cwd=tmp_path,
        env={"FLORENCE_API_KEY": "florence-test:secret"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"@fal-ai/client {version} would send key and image to fal: install 1.10" in done.stderr


def test_python(
    caller: Caller, front: TlsProxy, state: StateFolder, home: dict[str, str], tmp_path: Path
) -> None:
    """The same answer by fal's Python client, with the private authority where README finds it."""
    assert certificates(state.tls).authority == state.tls / "ca.pem"
    environment = replaced(block("sh", "FAL_RUN_HOST"), (ADDRESS, f"127.0.0.1:{front.port}"))
    script = tmp_path / "first.py"
    script.write_text(block("python", "fal_client.run"))

    printed = run_shell(
        f"{environment}{sys.executable} {script}", home | {"FLORENCE_API_KEY": caller.key}
    )

    check(ast.literal_eval(printed))


def test_predict(caller: Caller, home: dict[str, str], tmp_path: Path) -> None:
    """The picture is written; the labels are the shapes in it."""
    first, second = (f"{line} --url {caller.url}" for line in lines(FLORENCE + "predict"))
    table = run_shell(replaced(first, ("out/annotated", str(tmp_path))), home)
    answers = {each["task"]: each for each in map(json.loads, run_shell(second, home).splitlines())}

    assert "scene.png" in table
    assert [file.suffix for file in tmp_path.iterdir()] == [".jpg"]
    detected = answers["object-detection"]["results"]["bboxes"]
    assert sorted(box["label"] for box in detected) == ["circle", "square", "triangle"]
    assert "circle" in answers["detailed-caption"]["results"]


OTHERS = [line for line in lines(FLORENCE) if "predict" not in line]


@pytest.mark.parametrize("line", OTHERS, ids=lambda line: line.split()[1])
def test_other_commands(
    line: str, caller: Caller, state: StateFolder, home: dict[str, str]
) -> None:
    """Each ends well about the service that runs, with something to read."""
    with metrics_targets(state):
        assert run_shell(line, home).strip()


def test_each_command_is_known() -> None:
    """Every command of README is run here, or in the test that is named."""
    run = {"curl", "export", "image_url", ".venv/bin/florence"}
    elsewhere = {
        "make": "tests/acceptance/test_commands.py, without make; options in tests/test_readme.py",
        "helm": "tests/k8s/test_chart.py renders each example; files in tests/test_readme.py",
    }
    words = {re.split(r"[ =]", line)[0] for line in lines("") if re.match(r"[a-z.]", line)}

    assert words == run | elsewhere.keys()
