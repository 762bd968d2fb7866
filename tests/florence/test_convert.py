"""`florence convert`: other layouts and adapters become checkpoints that give the same answers."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from deployments.florence.checkpoint import Checkpoint
from deployments.florence.convert.checkpoint import Conversion, convert
from deployments.florence.convert.names import native_name
from deployments.florence.model import Model
from deployments.florence.open import open_engine
from deployments.florence.sequence import Sequence, Tokens
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.adapters import save_adapter
from tests.florence.original_layout import make_native, original_name, write_original
from tests.florence.sequences import answers, demo, scene
from tests.refusal import refusal_of

WORDS = 1545  # of the demo, without `<image>`
TWO_STAGES: dict[str, Any] = {
    "depths": [1, 2],
    "embed_dim": [32, 64],
    "num_heads": [2, 4],
    "num_groups": [2, 4],
    "patch_padding": [3, 1],
    "patch_prenorm": [False, True],
    "patch_size": [7, 3],
    "patch_stride": [8, 2],
}
DEEPER: dict[str, Any] = {"depths": [2, 1, 3, 1], "mlp_ratio": 4.0}


def run(
    source: Path, target: Path, adapter: Path | None = None, dtype: str = "float32"
) -> Conversion:
    return convert(source, target, adapter, dtype, lambda count: None)


def answers_of(model: Model) -> list[Tokens]:
    """What the engine says to three tasks about two pictures, by the checkpoint's own rules."""
    prompts = [model.checkpoint.prompt(TASKS[path].sentence) for path in list(TASKS)[:3]]
    settings = InferenceSettings(max_new_tokens=24, max_batch_size=3, num_beams=3)
    engine = open_engine(model, settings, max(map(len, prompts)))
    return answers(
        engine, [Sequence(np.asarray(scene(seed)), prompt) for seed in (1, 2) for prompt in prompts]
    )


def load(folder: Path) -> Model:
    return Model(demo(path=str(folder)))


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """The demo in Microsoft's layout."""
    write_original(DEMO_CHECKPOINT, tmp_path / "original", WORDS)
    return tmp_path / "original"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "has_own_head"),
    [
        (lambda folder: DEMO_CHECKPOINT, False),
        (partial(make_native, is_tied=False, **TWO_STAGES), True),
        (partial(make_native, **DEEPER), False),
    ],
    ids=["demo", "two stages, head of its own", "deeper"],
)
def test_microsofts_layout_gives_the_same_answers(
    tmp_path: Path, make: Any, has_own_head: bool
) -> None:
    """Token by token, from weights that are the same to the bit."""
    native = make(tmp_path / "native")
    write_original(native, tmp_path / "original")
    done = run(tmp_path / "original", tmp_path / "made")
    assert done.has_own_head == has_own_head
    assert done.tokens_added == 1025
    before, after = (load_file(f / "model.safetensors") for f in (native, tmp_path / "made"))
    assert before.keys() == after.keys()
    assert all(torch.equal(each.float(), after[name]) for name, each in before.items())
    expected = answers_of(load(native))
    assert answers_of(load(tmp_path / "made")) == expected
    assert len({tuple(each) for each in expected}) > 1


@pytest.mark.slow
def test_the_vocabulary_is_padded(original: Path, tmp_path: Path) -> None:
    """To a multiple of 64 rows, with words that are never said."""
    done = run(original, tmp_path / "made")
    assert done.rows == (1545, 1600)
    made = load(tmp_path / "made")
    assert made.florence.config.text_config.vocab_size == 1600
    assert answers_of(made) == answers_of(load(DEMO_CHECKPOINT))


def test_the_description_is_whole(original: Path, tmp_path: Path) -> None:
    """As the demo's own, and transformers' processor reads it."""
    run(original, tmp_path / "made")
    made, own = Checkpoint(tmp_path / "made"), Checkpoint(DEMO_CHECKPOINT)
    for field in ("image_size", "resample", "normalisation", "num_image_tokens", "num_beams"):
        assert getattr(made, field) == getattr(own, field)
    assert made.image_token_id == own.image_token_id
    assert made.vocabulary.bins == own.vocabulary.bins
    rules = json.loads((made.folder / "generation_config.json").read_text())
    expected = json.loads((own.folder / "generation_config.json").read_text())
    assert rules == {key: expected[key] for key in expected if key != "transformers_version"}
    processors = [AutoProcessor.from_pretrained(each.folder) for each in (made, own)]  # type: ignore[no-untyped-call]
    ids = [each(text="<OD>", images=scene(1))["input_ids"] for each in processors]
    assert ids[0] == ids[1]
    assert processors[0].post_processor_config.keys() == processors[1].post_processor_config.keys()


def test_older_files_are_read(original: Path, tmp_path: Path) -> None:
    """Weights of torch in bfloat16, in shards, and a tokenizer of two files."""
    state = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    names = sorted(state)
    for number, part in enumerate((names[:99], names[99:])):
        torch.save({name: state[name].bfloat16() for name in part}, original / f"{number}.bin")
    places = {name: f"{int(names.index(name) >= 99)}.bin" for name in names}
    (original / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    tokenizer = json.loads((original / "tokenizer.json").read_text())["model"]
    (original / "tokenizer.json").unlink()
    (original / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    (original / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(" ".join(each) + "\n" for each in tokenizer["merges"])
    )
    run(original, tmp_path / "made", dtype="bfloat16")
    made, own = Checkpoint(tmp_path / "made").vocabulary, Checkpoint(DEMO_CHECKPOINT).vocabulary
    for task in TASKS.values():
        assert made.encode(task.sentence) == own.encode(task.sentence)
    assert made.bins == own.bins
    found = load_file(tmp_path / "made" / "model.safetensors")
    name = "model.language_model.encoder.layers.0.fc1.weight"
    assert torch.equal(found[name], state[original_name(name)].bfloat16())


def test_every_name_is_found_again() -> None:
    """Of a whole model."""
    for name in load_file(DEMO_CHECKPOINT / "model.safetensors"):
        assert native_name(original_name(name)) == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({}, "native"),
        ({"use_dora": True}, "native"),
        ({"target_modules": ["lm_head", "fc2", "q_proj"], "use_rslora": True}, "native"),
        ({"target_modules": ["v_proj", "fc1"]}, "original"),
    ],
    ids=["LoRA", "DoRA", "of the head", "of the original layout"],
)
def test_an_adapter_is_merged_as_by_peft(
    tmp_path: Path, original: Path, options: dict[str, Any], layout: str
) -> None:
    """Token by token, and nothing else changes."""
    base = Florence2ForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    if "target_modules" in options:  # PEFT would change a tied embedding with its head
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
        base.config.tie_word_embeddings = False
    trained = save_adapter(tmp_path / "adapter", base, **options)
    if layout == "original":
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        renamed = {rename(name): each for name, each in load_file(file).items()}
        torch.save(renamed, file.with_suffix(".bin"))
        file.unlink()
    source = original if layout == "original" else DEMO_CHECKPOINT
    done = run(source, tmp_path / "made", tmp_path / "adapter")
    expected = load(DEMO_CHECKPOINT)
    expected.florence = trained.merge_and_unload().eval()
    made = load(tmp_path / "made")
    assert done.layers_merged > 5
    assert answers_of(made) == answers_of(expected)
    assert answers_of(made) != answers_of(load(DEMO_CHECKPOINT))


def rename(name: str) -> str:
    """The name of an adapter's tensor on the original layout."""
    module, dot, part = name.removeprefix("base_model.model.").partition(".lora_")
    original = original_name(f"{module}.weight").removesuffix(".weight")
    return f"base_model.model.{original}{dot}{part}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.update(x=torch.ones(1)), "has x, which Florence-2 has not"),
        (lambda state: state.pop("image_proj_norm.bias"), "lack model.multi_modal_projector"),
        (lambda state: state["image_proj_norm.bias"].fill_(torch.inf), "not finite in float16"),
        (lambda state: state["image_projection"].mul_(1e9), "not finite in float16"),
        (lambda state: state["language_model.final_logits_bias"].add_(1), "that is not zero"),
    ],
    ids=["unknown", "missing", "infinite", "too large", "bias"],
)
def test_what_is_wrong_is_named_and_nothing_stays(
    original: Path, tmp_path: Path, change: Any, says: str
) -> None:
    state = {n: e.float() for n, e in load_file(original / "model.safetensors").items()}
    change(state)
    save_file(state, original / "model.safetensors")
    assert says in refusal_of(run, original, tmp_path / "made", None, "float16")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["original"]


def test_a_target_in_use_is_left_alone(original: Path, tmp_path: Path) -> None:
    assert "is not empty: give a new folder" in refusal_of(run, original, original)
    (tmp_path / "made").mkdir()
    run(original, tmp_path / "made")


def test_files_that_may_run_code_are_refused(original: Path, tmp_path: Path) -> None:
    (original / "model.safetensors").unlink()
    torch.save({"a": Path("x")}, original / "pytorch_model.bin")
    assert "could run code" in refusal_of(run, original, tmp_path / "made")
    shutil.rmtree(original)
    assert "has no config.json" in refusal_of(run, original, tmp_path / "made")
