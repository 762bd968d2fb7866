"""Commands as a user types them, but for `florence serve`, which has a file of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file, save_file

from deployments.local.config import LAPTOP, merge, read_yaml, serve_config
from deployments.local.haproxy import private_haproxy
from deployments.local.ports import free_port
from deployments.local.state import StateFolder
from deployments.ray_compat import ENABLE_HAPROXY
from deployments.settings import DEMO_CHECKPOINT
from loadtest.bench.launch import is_ready
from tests.acceptance.caller import PROPOSAL, Caller, scene, uri
from tests.acceptance.command import florence

# Else `serve run` takes the Ray that was started last on this machine, dead or alive.
OWN_RAY = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
START_S = 120


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three scenes and another file."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        scene(number, (256, 256)).image.save(folder / f"{number}.png")
    (folder / "notes.dat").write_text("not an image")
    return folder


def test_predict_prints_a_table_and_writes_pictures(
    caller: Caller, state: StateFolder, pictures: Path, tmp_path: Path
) -> None:
    """A folder of images becomes rows of boxes and annotated pictures."""
    done = florence(
        "predict", str(pictures), "--url", caller.url, "--state", str(state.folder),
        "--out", str(tmp_path / "out"),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert all(f"{number}.png" in done.stdout for number in range(3))
    with Image.open(tmp_path / "out" / "1.annotated.jpg") as picture:
        assert picture.size == (256, 256)


def test_predict_reports_each_failed_image_and_does_the_others(
    caller: Caller, pictures: Path
) -> None:
    """One clear line for each failure, exit code 1, and answers for the rest."""
    images = [str(pictures / "0.png"), str(pictures / "notes.dat"), "gone.png", "http://127.0.0.1/"]
    done = florence("predict", *images, "--url", caller.url, "--key", caller.key, "--json")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    complaints = done.stderr.strip().splitlines()
    notes = [line for line in complaints if "The demo checkpoint knows" in line]

    assert len(notes) == 1
    assert done.returncode == 1
    assert [answer["input"] for answer in answers] == [images[0]]
    failed = [line.partition(": ")[0] for line in complaints if line not in notes]
    assert failed == images[1:]
    assert "Traceback" not in done.stderr


def test_serve_run_starts_the_same_application(tmp_path: Path) -> None:
    """Ray's own `serve run` takes the YAML; here with the laptop's values, as there is no GPU.

    HAProxy stands in front as in production, with ports and files of its own.
    """
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    with private_haproxy() as front, (tmp_path / "log").open("w") as log:
        file = write_config(tmp_path, int(url.rpartition(":")[2]), front)
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", str(file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"FLORENCE_API_KEY": "k", ENABLE_HAPROXY: "0"} | OWN_RAY,
        )
        try:
            assert is_ready(process, f"{url}/ready", START_S), (tmp_path / "log").read_text()
            body = {"image_url": uri(scene(0).image)}
            answer = httpx2.post(url + PROPOSAL, json=body, headers={"Authorization": "Key k"})
            started = psutil.Process(process.pid).children(recursive=True)
            names = {member.name() for member in started}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)

    assert answer.json()["results"]["bboxes"]
    assert "haproxy" in names  # what the YAML says reaches every process of Serve


def write_config(folder: Path, port: int, front: dict[str, str]) -> Path:
    """serve_config.yaml with the laptop's values, all that it keeps in `folder`."""
    args = {
        "files": {"root": str(folder / "files")},
        "store": {"url": f"sqlite:///{folder / 'queue.db'}"},
        "webhooks": {"keys": str(folder / "webhooks")},
    }
    own = {
        "http_options": {"port": port},
        "controller_options": {"runtime_env": {"env_vars": front}},
        "applications": [{"name": "florence", "args": args}],
    }
    config = merge(merge(read_yaml(serve_config()), read_yaml(LAPTOP)), own)
    for deployment in config["applications"][0]["deployments"]:
        deployment.pop("autoscaling_config", None)
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    """Ray's sockets have no room in a folder of so long a name."""
    folder = tmp_path / ("long" * 30)
    done = florence("serve", "--port", "0", "--ephemeral", RAY_TMPDIR=str(folder))

    [complaint] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Ray did not start" in complaint
    assert str(folder) in complaint


FOURTH = {  # of the scene with words
    "scene-4.png",
    "annotated-4-ocr-with-region.png",
    "annotated-4-segmentation.png",
    "result-4-ocr-with-region.json",
    "result-4-segmentation.json",
    "result-4-caption.json",
}


def test_a_checkpoint_that_lacks_a_tensor_is_one_line(tmp_path: Path) -> None:
    """The replica that loads it refuses, and the command says why."""
    folder, name = tmp_path / "checkpoint", "model.language_model.decoder.layers.1.fc1.weight"
    shutil.copytree(DEMO_CHECKPOINT, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    done = florence("serve", "--port", "0", "--state", str(tmp_path), "--model", str(folder))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"florence: the weights in {folder} lack {name}:")


def test_the_demo_finds_the_shapes(tmp_path: Path) -> None:
    """`florence demo` writes files for each scene and question, exits 0, and Ray says nothing."""
    done = florence("demo", "--seed", "7", "--out", str(tmp_path))
    names = {file.name for file in tmp_path.iterdir()}
    answer = json.loads((tmp_path / "result-1.json").read_text())
    truth = json.loads((tmp_path / "truth-1.json").read_text())

    assert done.returncode == 0, done.stdout + done.stderr
    assert "raylet" not in done.stdout + done.stderr
    assert (
        names
        == {
            f"{kind}-{number}.{suffix}"
            for number in (1, 2, 3)
            for kind, suffix in (
                ("scene", "png"),
                ("annotated", "png"),
                ("result", "json"),
                ("truth", "json"),
            )
        }
        | FOURTH
    )
    assert set(answer) == {"results", "image"}
    assert set(truth["bboxes"][0]) == {"x", "y", "w", "h", "label"}
    assert "seed 7" in done.stdout
