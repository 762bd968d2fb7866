"""The peers are measured with the very libraries that the service computes with."""

from pathlib import Path

import pytest

from loadtest.peers.environment import TORCH, requirements

MODEL = ("transformers", "tokenizers", "safetensors", "numpy", "pillow", "pydantic")


def pins(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines()
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("name", ["litserve", "bentoml"])
def test_a_peer_computes_with_the_same_versions(name: str) -> None:
    ours, theirs = pins(Path("constraints.txt")), pins(requirements(name))
    assert {library: theirs[library] for library in MODEL} == {
        library: ours[library] for library in MODEL
    }
    assert f"torch=={ours['torch']}" == TORCH
    assert "torch" not in theirs  # it is installed first, by itself
    assert name in theirs
