"""The code that the page offers does what the page does, run as it is shown."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.api.playground import FOLDER
from deployments.local.tls import certificates
from tests.acceptance.client_scripts import NEWEST, OLDEST, installed, node
from tests.acceptance.snippets import run_command
from tests.acceptance.tls_proxy import TlsProxy
from tests.browser.service import KEY, WholeService

pytestmark = pytest.mark.xdist_group("browser")

NAME = "it's a $(photo).png"  # nothing of a name is expanded or ends a string
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "boxes": ("object-detection", {"num_beams": 1, "scores": True}),
    "words": ("open-vocabulary-detection", {"text_input": "it's \"$HOME\" `a` \\n %s é 'x'"}),
    "region": ("region-to-category", {"region": {"x1": 15, "y1": 15, "x2": 247, "y2": 248}}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeService]:
    """The service with the demo checkpoint."""
    service = WholeService(tmp_path_factory.mktemp("service"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def front(
    whole: WholeService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Its address behind TLS, and the authority to trust."""
    made = certificates(tmp_path_factory.mktemp("tls"))
    proxy = TlsProxy(made, whole.port)
    proxy.start()
    yield f"https://127.0.0.1:{proxy.port}", made.authority
    proxy.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the picture."""
    (tmp_path / NAME).write_bytes((FOLDER / "samples" / "shapes.png").read_bytes())
    return tmp_path


def code(language: str, base: str, call: str) -> str:
    """What the page shows."""
    task, given = CALLS[call]
    picture = {"name": NAME, "type": "image/png"}
    values = {"base": f"{base}/", "task": task, "input": given, "picture": picture}
    expression = f"m.snippet({json.dumps(language)}, {json.dumps(values)})"
    script = f'import * as m from "{FOLDER / "snippets.js"}"; console.log({expression})'
    command = [node(), "--input-type=module", "--no-warnings", "--eval", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def by_shell(text: str, folder: Path, _: dict[str, str]) -> Any:
    """The answer of a script for sh, whose key is the reader's own."""
    shown = 'export FLORENCE_API_KEY="florence-…"'
    assert shown in text
    script = text.replace(shown, f'export FLORENCE_API_KEY="{KEY}"')
    return json.loads(run_command(["sh", "-e", "-c", script], {}, folder))


def by_node(version: str) -> Callable[[str, Path, dict[str, str]], Any]:
    """The answer of a module for Node, with a version of the client."""

    def run(text: str, folder: Path, environment: dict[str, str]) -> Any:
        (folder / "node_modules").symlink_to(installed(version) / "node_modules")
        (folder / "call.mjs").write_text(text)
        return json.loads(run_command([node(), "call.mjs"], environment, folder))

    return run


def by_python(text: str, folder: Path, environment: dict[str, str]) -> Any:
    """The answer of a script for Python, printed as JSON or as a dict."""
    (folder / "call.py").write_text(text)
    printed = run_command([sys.executable, "call.py"], environment, folder)
    return ast.literal_eval(printed) if printed.startswith("{'") else json.loads(printed)


RUNNERS = {
    "curl": by_shell,
    "javascript": by_node(NEWEST),
    "javascript-old": by_node(OLDEST),
    "python": by_python,
    "python-plain": by_python,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("language", RUNNERS)
def test_code_does_what_the_page_does(
    whole: WholeService, front: tuple[str, Path], folder: Path, language: str, call: str
) -> None:
    """With any name, words and region; Python's client over TLS."""
    base, authority = front if language == "python" else (whole.url, None)
    environment = {"FLORENCE_API_KEY": KEY} | (
        {"SSL_CERT_FILE": str(authority)} if authority else {}
    )
    text = code(language, base, call)
    assert KEY not in text
    results = RUNNERS[language](text, folder, environment)["results"]

    if call == "boxes":
        assert [box["label"] for box in results["bboxes"]] == ["circle", "triangle", "square"]
        assert all(0 < box["score"] <= 1 for box in results["bboxes"])
    elif call == "words":
        assert "bboxes" in results
    else:
        assert results == "circle"


def test_every_language_is_run() -> None:
    """All that the page offers."""
    script = (
        f'import * as m from "{FOLDER / "snippets.js"}"; console.log(JSON.stringify(m.LANGUAGES))'
    )
    command = [node(), "--input-type=module", "--no-warnings", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == list(RUNNERS)
