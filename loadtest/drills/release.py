"""What is deployed: serve_config.yaml made small, put to Serve over HTTP as `serve deploy` does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from deployments.local.profile import Tree, laid_over, read, serve_config, without_empty
from loadtest.drills.cluster import Cluster

SMALL = Path(__file__).parent / "small.yaml"
APPLICATION = "florence"
TIMEOUT_S = 60.0


class Release:
    """The application on `cluster`; `over` is laid over the configuration."""

    def __init__(self, cluster: Cluster, over: Tree) -> None:
        self._cluster = cluster
        self._tree = laid_over(laid_over(read(serve_config()), read(SMALL)), over)
        self._path = f"{cluster.dashboard}/api/serve/applications/"

    def deploy(self, args: Tree | None = None, deployments: Any = ()) -> None:
        """Ask for the configuration with these settings and options of boxes laid over it.

        Returns at once: Serve gets there by and by.
        """
        application = {"name": APPLICATION, "args": args or {}, "deployments": list(deployments)}
        tree = laid_over(self._tree, {"applications": [application]})
        [asked] = tree["applications"]
        asked["deployments"] = [without_empty(each) for each in asked["deployments"]]
        answer = httpx2.put(self._path, json=tree, **self._options())
        if answer.is_error:
            raise RuntimeError(f"Serve refused the configuration: {answer.text}")

    def adopt(self, args: Tree) -> None:
        """From now on these settings are part of the configuration."""
        self._tree = laid_over(self._tree, {"applications": [{"name": APPLICATION, "args": args}]})

    def status(self) -> Mapping[str, Any]:
        """What Serve says of the application: `status`, `message`, `deployments`."""
        answer = httpx2.get(self._path, **self._options())
        answer.raise_for_status()
        told: Mapping[str, Any] = answer.json()["applications"].get(APPLICATION, {})
        return told

    def is_running(self) -> bool:
        """Whether every box has the replicas that it should have, of what was asked last."""
        try:
            return bool(self.status().get("status") == "RUNNING")
        except httpx2.HTTPError:  # while the head is away
            return False

    def _options(self) -> dict[str, Any]:
        headers = self._cluster.authorization
        return {"headers": headers, "timeout": TIMEOUT_S, "trust_env": False}
