"""Checkpoints that engines are measured on, with sequences about every task."""

import pytest

from deployments.settings import DEMO_CHECKPOINT
from tests.florence.engine.checkpoints import SLIM_BASE, UNEVEN, random_checkpoint
from tests.florence.engine.pool import Pool, Way, colours, scene


@pytest.fixture(scope="session")
def demo() -> Pool:
    """The demo checkpoint, asked about its scenes."""
    return Pool(DEMO_CHECKPOINT, scene)


@pytest.fixture(scope="session")
def slim_base(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Random weights in the shape of Florence-2-base."""
    folder = random_checkpoint(SLIM_BASE, tmp_path_factory.mktemp("models") / "slim-base")
    return Pool(folder, colours)


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Random weights in the shape of nothing else."""
    folder = random_checkpoint(UNEVEN, tmp_path_factory.mktemp("models") / "uneven")
    return Pool(folder, colours)


@pytest.fixture(scope="session")
def clear(uneven: Pool) -> Pool:
    """Of `uneven`, what is no near-tie with one beam, two or three."""
    return uneven.clear(Way(), (1, 2, 3))


@pytest.fixture(scope="session", params=["demo", "slim_base", "uneven"])
def pool(request: pytest.FixtureRequest) -> Pool:
    """Each of them in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Pool)
    return found
