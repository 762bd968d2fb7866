"""The Dockerfile makes what the chart runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import __version__
from k8s.generate.helm import CHART
from tests.k8s.rendered import one

FILE = CHART.parent / "docker" / "Dockerfile"
ROOT = CHART.parents[1]


def stages() -> dict[str, str]:
    """The text of each stage, by its name."""
    found = re.split(r"^FROM \S+ AS (\S+)$", FILE.read_text(), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def hadolint(file: Path) -> str:
    """What hadolint finds."""
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, "--no-color", file], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    """Unpinned packages, caches left in layers, `latest`, root."""
    assert hadolint(FILE) == ""


def test_hadolint_does_look(tmp_path: Path) -> None:
    """So that the test above can fail."""
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian:latest\nRUN pip install ray\n")
    assert "DL3007" in hadolint(file)


@pytest.mark.parametrize("target", ["runtime", "runtime-with-model", "cpu", "loadtest"])
def test_each_target_is_there(target: str) -> None:
    """And said how to be built, with the version of the chart."""
    assert target in stages()
    assert f"--target {target}" in FILE.read_text()
    assert f"florence-serve:{__version__}" in FILE.read_text()
    assert f"ARG VERSION={__version__}\n" in FILE.read_text()


@pytest.mark.parametrize("target", ["runtime", "cpu", "loadtest"])
def test_the_image_runs_as_the_user_of_the_chart(target: str) -> None:
    """Not as root."""
    (*_, last) = re.findall(r"^[A-Z]+ .*$", stages()[target], re.MULTILINE)
    assert last == "USER 1000:1000"
    template = one("RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    security = template["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (1000, 1000)


def test_kuberay_finds_its_tools() -> None:
    """It starts Ray in bash, and asks with wget."""
    assert re.search(r"apt-get install .* bash .*wget", stages()["base"])


def test_torch_is_the_pinned_one() -> None:
    """First, and in both kinds of image."""
    (pinned,) = re.findall(
        r'^    "(torch==.*)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    for stage in ("dependencies", "dependencies-cpu"):
        assert pinned in stages()[stage].split("--requirement")[0]


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    """The repository, the virtual environment and secrets are left out."""
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in kept if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", FILE.read_text(), re.MULTILINE)
        for word in line.split()
    }
    assert "*" in kept
    assert copied == allowed
