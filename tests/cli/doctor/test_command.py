"""The command: what it checks, when, and its exit code."""

from pathlib import Path

import pytest

from deployments.cli.doctor.check import Level
from tests.cli.conftest import Florence
from tests.cli.doctor.conftest import Doctor

HERE = [
    "versions",
    "store",
    "clock",
    "files",
    "model",
    "gpu",
    "keys",
    "webhook-keys",
    "ray-token",
    "ports",
]
AT_URL = ["service", "service-clock", "service-key", "service-webhook-keys", "service-paths"]
NOWHERE = "http://127.0.0.1:1"
CONFIG = """
applications:
  - args:
      model: {{path: demo, device: cpu}}
      store: {{url: "sqlite:///{folder}/queue.db"}}
      files: {{root: {folder}/files}}
      webhooks: {{keys: {folder}/webhooks}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A Serve config of its own."""
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(folder=tmp_path / "there"))
    return file


def test_a_laptop_before_its_first_start_is_fine(doctor: Doctor, tmp_path: Path) -> None:
    """And it is still before its first start."""
    left = doctor()
    assert list(left.found) == HERE
    watched = {name: each.level for name, each in left.found.items() if name not in HERE[-2:]}
    assert set(watched.values()) == {Level.OK, Level.SKIP}
    assert str(tmp_path / "florence" / "queue.db") in left.found["store"].said
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_in_the_exit_code(doctor: Doctor) -> None:
    """What does not need it is checked all the same."""
    left = doctor("--store", "sqlite:////dev/null/queue.db")
    assert left.code == 1
    assert left.found["store"].level is Level.FAIL
    assert left.found["keys"].said == "unknown, because store failed"
    assert left.found["model"].level is Level.OK


def test_a_config_goes_before_the_laptops_settings(
    doctor: Doctor, config: Path, tmp_path: Path
) -> None:
    """And options before it."""
    found = doctor("--config", str(config)).found
    assert str(tmp_path / "there" / "queue.db") in found["store"].said
    assert str(tmp_path / "there" / "files") in found["files"].said
    assert found["keys"].level is Level.WARN
    found = doctor("--config", str(config), "--set", f"files.root={tmp_path}/other").found
    assert str(tmp_path / "other") in found["files"].said


def test_the_environment_counts(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pod of the chart, whose config names no store."""
    file = tmp_path / "config.yaml"
    file.write_text("applications: [{args: {model: {path: demo, device: cpu}}}]")
    monkeypatch.setenv("FLORENCE_STORE", f"sqlite:///{tmp_path}/environment.db")
    monkeypatch.setenv("FLORENCE_API_KEY", "k")
    found = doctor("--config", str(file)).found
    assert "environment.db" in found["store"].said
    assert found["keys"].said.startswith("1 in the settings")


def test_a_url_is_checked_alone(doctor: Doctor) -> None:
    """And in addition to this machine when that is asked for."""
    left = doctor("--url", NOWHERE)
    assert (left.code, list(left.found)) == (1, [*AT_URL, "service-ports"])
    assert "Connection refused" in left.found["service"].said
    assert left.found["service"].remedy
    left = doctor("--url", NOWHERE, "--set", "model.path=demo", "--smoke", "--key", "k")
    assert list(left.found) == [*HERE, *AT_URL, "service-ports", "smoke"]
    assert left.found["smoke"].level is Level.SKIP


def test_without_kubectl_a_cluster_is_one_failure(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other checks are skipped."""
    monkeypatch.setenv("PATH", "/nowhere")
    left = doctor("--release", "florence")
    assert left.code == 1
    checks = ("cluster", "cluster-kuberay", "cluster-ready", "cluster-pods", "cluster-limits")
    assert tuple(left.found) == checks
    assert left.found["cluster"].said == "there is no kubectl on PATH"
    assert left.found["cluster"].remedy
    assert {each.level for each in list(left.found.values())[1:]} == {Level.SKIP}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--smoke"], "--smoke needs --url"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml (No such file"),
        (["--config", "/dev/null"], "/dev/null is no Serve config"),
        (
            ["--set", "inference.batch=3"],
            "setting inference.batch: there is none of this",
        ),
        (["--store", "queue.db"], "setting store.url: String should match"),
        (["--url", "florence"], "--url florence: write http://HOST:PORT"),
        (["--no-such-flag"], "--help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_one_line(florence: Florence, words: list[str], line: str) -> None:
    """Exit code 2, and nothing is checked."""
    left = florence("doctor", *words)
    [complaint] = left.err.splitlines()
    assert (left.code, left.out) == (2, "")
    assert line in complaint


def test_people_read_a_line_for_each_check(florence: Florence) -> None:
    """And a total."""
    left = florence("doctor", "--url", NOWHERE)
    assert [line.split()[2] for line in left.out.splitlines()[:-1]] == [*AT_URL, "service-ports"]
    assert left.out.splitlines()[-1] == "1 fail, 5 skip"
    assert left.err == ""
