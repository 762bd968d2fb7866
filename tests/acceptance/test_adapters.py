"""A service with an adapter beside the demo: chosen by name, by a key, and in the queue."""

import json
import time

import pytest

from deployments.cli.top import samples_in
from deployments.florence.identity import HEADER
from deployments.local.state import StateFolder
from tests.acceptance.caller import APP, Caller, scene, uri
from tests.acceptance.command import florence
from tests.acceptance.test_metrics import exporters_say

CAPTION = f"{APP}/caption"
IMAGE = uri(scene(0, (256, 256)).image)
BASE, LOUD = "demo", "demo; adapter=loud"


def ask(caller: Caller, adapter: str | None = None) -> tuple[str, str]:
    """The caption of an image, and who wrote it."""
    answer = caller.post({"image_url": IMAGE, "adapter": adapter}, CAPTION)
    assert answer.status_code == 200
    return answer.json()["results"], answer.headers[HEADER]


@pytest.fixture(scope="module")
def base(caller: Caller) -> str:
    """What the demo says without any adapter."""
    caption, model = ask(caller)
    assert model == BASE
    return caption


@pytest.fixture(scope="module")
def tenant(caller: Caller, state: StateFolder) -> Caller:
    """A client whose key has the adapter."""
    made = florence(
        "keys", "create", "--adapter", "loud", "--json", "--state", str(state.folder)
    ).stdout
    return Caller(caller.url, json.loads(made)["key"], caller.http)


def test_an_adapter_answers_by_its_name(caller: Caller, base: str) -> None:
    """Otherwise than the base, which answers as ever beside it."""
    caption, model = ask(caller, "loud")
    assert model == LOUD
    assert caption != base
    assert ask(caller, "base") == (base, BASE)


def test_a_key_has_its_adapter(caller: Caller, tenant: Caller, base: str) -> None:
    """Its requests need not name it, and may ask for the base."""
    assert ask(tenant) == ask(caller, "loud")
    assert ask(tenant, "base") == (base, BASE)


def test_a_job_has_its_keys_adapter(tenant: Caller) -> None:
    """It was chosen when the job was submitted."""
    job = tenant.post({"image_url": IMAGE}, f"/queue{CAPTION}").json()
    deadline, result = time.monotonic() + 60, None
    while result is None or result.status_code != 200:
        assert time.monotonic() < deadline
        result = tenant.http.get(job["response_url"], headers=tenant.authorization)
    assert (result.json()["results"], result.headers[HEADER]) == ask(tenant)


def test_a_stream_has_the_adapter(caller: Caller) -> None:
    """Its last event is the run's answer."""
    answer = caller.post({"image_url": IMAGE, "adapter": "loud"}, f"{CAPTION}/stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data:")]
    assert events[-1]["results"] == ask(caller, "loud")[0]


def test_predict_names_an_adapter(caller: Caller, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The command says who has answered."""
    words = ("--task", "caption", "--adapter", "loud", "--json", "--url", caller.url)
    left = florence("predict", IMAGE, *words, "--key", caller.key)
    assert json.loads(left.stdout)["results"] == ask(caller, "loud")[0]
    assert f"Answered by {LOUD}" in left.stderr


@pytest.mark.parametrize("path", [CAPTION, f"{CAPTION}/stream", f"/queue{CAPTION}"])
def test_an_unknown_adapter_is_refused(caller: Caller, path: str) -> None:
    """With the names of those that there are."""
    answer = caller.post({"image_url": IMAGE, "adapter": "quiet"}, path)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "adapter"]
    assert answer.json()["hint"].startswith("This deployment's adapters are loud;")


def test_answers_are_counted_by_adapter(caller: Caller) -> None:
    """Each under its name; the base under its own."""
    ask(caller, "loud")
    deadline = time.monotonic() + 90
    while True:
        counted = {
            dict(labels)["adapter"]
            for target, text in exporters_say()
            for (name, labels), value in samples_in(text, target).items()
            if name == "florence_inference_answers_total" and value
        }
        if counted == {"base", "loud"}:
            return
        assert time.monotonic() < deadline, counted
        time.sleep(0.5)
