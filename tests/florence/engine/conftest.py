"""Checkpoints that engines are measured on, with sequences whose answers are no near-ties."""

import pytest

from deployments.settings import DEMO_CHECKPOINT
from tests.florence.engine.checkpoints import SLIM_BASE, UNEVEN, random_checkpoint
from tests.florence.engine.pool import Pool, colours, scene

DEMO_SEEDS = (11, 16, 23, 35, 37, 40, 47, 48, 54, 55, 64, 85, 94)
SLIM_BASE_SEEDS = (3, 19, 27, 60, 61, 65, 81, 84, 88, 90, 232, 256)
UNEVEN_SEEDS = (3, 9, 11, 16, 19, 23, 25, 27, 32, 35, 38, 39, 42, 43)


@pytest.fixture(scope="session")
def demo() -> Pool:
    """The demo checkpoint, asked about its scenes."""
    return Pool(DEMO_CHECKPOINT, DEMO_SEEDS, scene)


@pytest.fixture(scope="session")
def slim_base(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Random weights in the shape of Florence-2-base."""
    folder = random_checkpoint(SLIM_BASE, tmp_path_factory.mktemp("models") / "slim-base")
    return Pool(folder, SLIM_BASE_SEEDS, colours)


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Random weights in the shape of nothing else."""
    folder = random_checkpoint(UNEVEN, tmp_path_factory.mktemp("models") / "uneven")
    return Pool(folder, UNEVEN_SEEDS, colours)


@pytest.fixture(scope="session", params=["demo", "slim_base", "uneven"])
def pool(request: pytest.FixtureRequest) -> Pool:
    """Each of them in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Pool)
    return found
