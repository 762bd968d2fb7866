"""An embedded store serves one node: a cluster of several is refused at the start."""

import pytest
import ray

from deployments.app import assemble
from deployments.errors import SetupError
from deployments.settings import Settings, StoreSettings

ALIVE, DEAD = {"Alive": True}, {"Alive": False}
POSTGRES = "postgresql://database/florence"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bool]]:
    """The nodes of the cluster, as Ray lists them."""
    found: list[dict[str, bool]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: found)
    return found


def build(url: str) -> None:
    """Build the application with this store."""
    assemble(Settings(store=StoreSettings(url=url)))


@pytest.mark.parametrize("url", ["sqlite:///queue.db", "memory:"])
def test_two_nodes_need_postgresql(nodes: list[dict[str, bool]], url: str) -> None:
    """The message says what to give instead."""
    nodes += [ALIVE, ALIVE, DEAD]
    with pytest.raises(SetupError) as refused:
        build(url)

    assert str(refused.value) == (
        f"setting store.url: {url} serves one node, and this cluster has 2: "
        "give postgresql://… as FLORENCE_STORE"
    )
    build(POSTGRES)


@pytest.mark.parametrize("url", ["sqlite:///queue.db", "memory:", POSTGRES])
def test_one_node_serves_any_store(nodes: list[dict[str, bool]], url: str) -> None:
    """Those that were lost do not count."""
    nodes += [ALIVE, DEAD]
    build(url)
