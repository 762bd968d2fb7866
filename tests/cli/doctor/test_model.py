"""Checkpoints that are whole, cut off, somewhere else, or too large for a GPU."""

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.doctor import model as module
from deployments.cli.doctor.check import Finding, Level, run_safely
from deployments.cli.doctor.local import Setup
from deployments.cli.doctor.model import check_gpu, check_model, gpu_finding
from deployments.florence import memory_estimate
from deployments.florence.checkpoint import Checkpoint
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.cli.doctor.conftest import setup_of
from tests.florence.adapter_folders import write_adapter

HUB_ID = "florence-community/Florence-2-base"
GIB = 1 << 30


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo checkpoint."""
    return shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint")


def at(path: object, device: str = "cpu") -> Setup:
    """A setup whose model is there."""
    return setup_of({"model": {"path": str(path), "device": device}})


def model_at(setup: Setup) -> Finding:
    """What the check says of its model."""
    return run_safely(lambda: check_model(setup))


def test_the_demo_checkpoint_loads() -> None:
    """It is small, so it is really loaded."""
    found = model_at(at("demo"))
    assert (found.level, found.said) == (Level.OK, "demo, 3 M weights, loads")


def test_a_large_one_is_loaded_when_that_is_wanted(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are read so far as they say what is in them."""
    monkeypatch.setattr(module, "SMALL", 1_000_000)
    assert "all there; --load loads them" in model_at(at(checkpoint)).said
    assert "loads" in model_at(replace(at(checkpoint), load=True)).said.split(", ")


def test_weights_that_are_cut_off_fail(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a model that is not loaded."""
    monkeypatch.setattr(module, "SMALL", 1_000_000)
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    found = model_at(at(checkpoint))
    assert found.level is Level.FAIL
    assert f"{file} is missing or cut off" in found.said
    assert "fetch it again" in found.said


def test_a_missing_part_fails(checkpoint: Path) -> None:
    """Of weights in several files."""
    names = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    found = model_at(at(checkpoint))
    assert found.level is Level.FAIL
    assert "model-2.safetensors is missing" in found.said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "tokenizer.json"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_missing_file_fails(checkpoint: Path, name: str, said: str) -> None:
    """Whichever it is."""
    (checkpoint / name).unlink()
    found = model_at(at(checkpoint))
    assert (found.level, said in found.said) == (Level.FAIL, True), found.said


def test_weights_of_another_shape_fail(checkpoint: Path) -> None:
    """They are whole, and do not fit; their headers say so."""
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["d_model"] *= 2
    file.write_text(json.dumps(config))
    assert "its config.json says" in model_at(at(checkpoint)).said


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere", "no checkpoint folder at /nowhere"),
        ("microsoft/Florence-2-large", "use florence-community/Florence-2-large"),
    ],
)
def test_what_can_never_be_a_model_fails(path: str, said: str) -> None:
    """As `florence serve` would say it."""
    assert (model_at(at(path)).level, said in model_at(at(path)).said) == (Level.FAIL, True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on loopback that knows one id, and an empty cache; yields the paths asked for."""
    from huggingface_hub import constants

    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        """Serves what it has."""

        def do_GET(self) -> None:
            """About a model."""
            asked.append(self.path)
            known = self.path == f"/api/models/{HUB_ID}/revision/main"
            body = json.dumps({"id": HUB_ID} if known else {"error": "no such model"}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants", constants)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def test_a_model_at_the_hub_is_asked_for_and_not_fetched(hub: list[str]) -> None:
    """It may have gigabytes."""
    found = model_at(at(HUB_ID))
    assert found.level is Level.OK
    assert "it is fetched at the first start" in found.said
    assert f"/api/models/{HUB_ID}/revision/main" in hub
    assert [path for path in hub if "/resolve/" in path] == []


def test_a_model_that_the_hub_does_not_have_fails(hub: list[str]) -> None:
    """With what else could be done."""
    found = model_at(at("florence-community/none"))
    assert found.level is Level.FAIL
    assert "cannot be fetched" in found.said
    assert "HF_TOKEN" in found.remedy
    assert hub


def test_a_model_in_the_cache_is_as_good_as_a_folder(hub: list[str], tmp_path: Path) -> None:
    """No request is sent."""
    folder = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(DEMO_CHECKPOINT, folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    found = model_at(at(HUB_ID))
    assert (found.level, found.said) == (Level.OK, f"{HUB_ID}, 3 M weights, loads")
    assert hub == []


def test_without_a_gpu() -> None:
    """It is missed only where it is asked for, by a service on this machine."""
    assert check_gpu(at("demo")).level is Level.SKIP
    assert "torch" in sys.modules  # by the tests above; not by that line
    assert check_gpu(at("demo", "auto")).level is Level.SKIP
    assert check_gpu(at("demo", "cuda")).level is Level.FAIL
    assert "set model.device to cpu" in check_gpu(at("demo", "cuda")).remedy
    assert check_gpu(replace(at("demo", "cuda"), is_elsewhere=True)).level is Level.SKIP


@pytest.mark.parametrize(
    ("num_free", "level", "said"),
    [
        (99.0, Level.OK, "all 8 slots fit"),
        (3.5, Level.WARN, "3 of 8 slots fit"),
        (0.5, Level.FAIL, "no slot fits"),
    ],
)
def test_what_is_free_decides_about_slots(
    monkeypatch: pytest.MonkeyPatch, num_free: float, level: Level, said: str
) -> None:
    """A twentieth of the card is left alone, and what is not sequences has its place first."""
    settings = at("demo", "cuda").settings
    whole = memory_estimate.GpuMemory("NVIDIA L4", 24 * GIB, 24 * GIB)
    needs = memory_estimate.estimate_memory(
        whole, Checkpoint(DEMO_CHECKPOINT), settings.model, settings.inference
    )
    others = needs.weights + needs.image_cache + whole.total // 20
    card = replace(whole, free=others + int(num_free * needs.sequence))
    monkeypatch.setattr(memory_estimate, "first_gpu", lambda: card)
    found = check_gpu(at("demo", "cuda"))
    assert (found.level, said in found.said) == (level, True), found.said
    assert found.said.startswith("NVIDIA L4, ")


def test_the_remedy_names_the_slots_that_fit() -> None:
    """So that it can be pasted."""
    found = gpu_finding("A card", 5, InferenceSettings(max_batch_size=32))
    assert found.remedy.startswith("set inference.max_batch_size to 5")


def test_adapters_are_checked(tmp_path: Path) -> None:
    """Those that fit are named, also where nothing is loaded; one that is not there fails."""
    write_adapter(tmp_path / "loud")
    given = {"path": "demo", "device": "cpu", "adapters": {"loud": str(tmp_path / "loud")}}
    assert ", loud fit" in model_at(setup_of({"model": given})).said
    given["adapters"] = {"quiet": str(tmp_path / "quiet")}
    found = model_at(setup_of({"model": given}))
    assert found.level is Level.FAIL
    assert "adapter quiet: " in found.said
