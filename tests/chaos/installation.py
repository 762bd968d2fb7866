"""A whole installation on this machine: cluster, HAProxy, PostgreSQL, object store, application."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from deployments.local.config import Tree, merge, read_yaml, serve_config, without_nulls
from deployments.local.haproxy import private_haproxy
from deployments.local.ports import free_ports
from deployments.ray_compat import (
    ENABLE_HAPROXY,
    HAPROXY_FAST_STOP,
    HAPROXY_METRICS_PORT,
    HAPROXY_STATS_PORT,
)
from deployments.settings import hash_key
from tests.chaos.backing_services import Bucket, Database
from tests.chaos.cluster import Cluster
from tests.chaos.load import Target, until

SMALL = Path(__file__).parent / "installation.yaml"
APPLICATION = "florence"
TIMEOUT_S = 60.0


class Release:
    """The application on `cluster`; `over` is laid over the configuration."""

    def __init__(self, cluster: Cluster, over: Tree) -> None:
        self._cluster = cluster
        self._tree = merge(merge(read_yaml(serve_config()), read_yaml(SMALL)), over)
        self._path = f"{cluster.dashboard}/api/serve/applications/"

    def deploy(self, args: Tree | None = None, deployments: Any = ()) -> None:
        """Ask for the configuration with these settings and options of deployments laid over it.

        Returns at once; Serve changes the replicas afterwards.
        """
        application = {"name": APPLICATION, "args": args or {}, "deployments": list(deployments)}
        tree = merge(self._tree, {"applications": [application]})
        [asked] = tree["applications"]
        asked["deployments"] = [without_nulls(each) for each in asked["deployments"]]
        answer = httpx2.put(self._path, json=tree, **self._options())
        if answer.is_error:
            raise RuntimeError(f"Serve refused the configuration: {answer.text}")

    def adopt(self, args: Tree) -> None:
        """Add settings to the configuration for good."""
        self._tree = merge(self._tree, {"applications": [{"name": APPLICATION, "args": args}]})

    def status(self) -> Mapping[str, Any]:
        """Serve's status of the application: `status`, `message`, `deployments`."""
        answer = httpx2.get(self._path, **self._options())
        answer.raise_for_status()
        status: Mapping[str, Any] = answer.json()["applications"].get(APPLICATION, {})
        return status

    def is_running(self) -> bool:
        """Whether every deployment has all replicas of the latest configuration."""
        try:
            return bool(self.status().get("status") == "RUNNING")
        except httpx2.HTTPError:  # while the head is away
            return False

    def _options(self) -> dict[str, Any]:
        headers = self._cluster.authorization
        return {"headers": headers, "timeout": TIMEOUT_S, "trust_env": False}


KEY = "florence-chaos"
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
HEADS_LAUNCHER = """\
#!/bin/sh
sed -i {changes} "$3"  # -db -f FILE
exec {launcher} "$@"
"""
START_S = 240.0


@dataclass(frozen=True)
class Installation:
    """The parts that drills break."""

    folder: Path
    target: Target
    cluster: Cluster
    database: Database
    bucket: Bucket
    release: Release

    def is_whole(self) -> bool:
        """Whether the pipeline answers, and Serve has all its replicas."""
        return self.is_ready() and self.release.is_running()

    def is_ready(self) -> bool:
        """Whether the pipeline answers."""
        with suppress(httpx2.HTTPError):
            url = f"{self.target.url}/ready"
            return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
        return False


@contextmanager
def installation(haproxy: bool = True, application: Tree | None = None) -> Iterator[Installation]:
    """An installation, removed after the block.

    `application` has settings and options that are laid over those of installation.yaml.
    """
    with ExitStack() as stack:
        # Not TMPDIR, which may be too long for the addresses of Ray's sockets.
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="drill-", dir="/tmp"))
        folder = Path(name)
        database = Database(folder)
        stack.callback(database.close)
        bucket = Bucket(folder / "bucket.log")
        stack.callback(bucket.stop)
        bucket.start()
        [port] = free_ports(1)
        front = dict(stack.enter_context(private_haproxy())) if haproxy else {ENABLE_HAPROXY: "0"}
        for variable in HAPROXY_FAST_STOP:  # a laptop's; here connections end as in production
            front.pop(variable, None)
        launcher = front.pop(BINARY, "")  # not the same on both nodes
        heads = heads_launcher(folder / "haproxy", launcher, port, front) if haproxy else ""
        cluster = Cluster(folder, bucket.environment | {BINARY: launcher}, {BINARY: heads})
        stack.callback(cluster.stop)
        cluster.start()
        over = configuration(port, front, database.url, bucket.url, folder)
        own = {"applications": [{"name": APPLICATION, **(application or {})}]}
        release = Release(cluster, merge(over, own))
        target = Target(f"http://127.0.0.1:{port}", KEY)
        whole = Installation(folder, target, cluster, database, bucket, release)
        release.deploy()
        until(whole.is_whole, START_S, "the service is not ready")
        yield whole


def heads_launcher(file: Path, launcher: str, port: int, front: dict[str, str]) -> str:
    """A launcher of HAProxy for the head that listens at other ports than the worker's.

    Both are on one machine here, and clients are to come in by the worker, as on a cluster.
    """
    ports = [str(port), front[HAPROXY_STATS_PORT], front[HAPROXY_METRICS_PORT]]
    changes = (
        f"-e 's/bind .*:{old}$/bind 127.0.0.1:{new}/'"
        for old, new in zip(ports, free_ports(len(ports)), strict=True)
    )
    file.write_text(HEADS_LAUNCHER.format(changes=" ".join(changes), launcher=launcher))
    file.chmod(0o700)
    return str(file)


def configuration(
    port: int, front: dict[str, str], database_url: str, files: str, folder: Path
) -> Tree:
    """The ports and folders of this installation."""
    settings: dict[str, Any] = {
        "keys": {"hashes": [hash_key(KEY)]},
        "store": {"url": database_url},
        "files": {"root": files},
        "webhooks": {"keys": str(folder / "webhooks")},
    }
    return {
        "proxy_location": "EveryNode" if front[ENABLE_HAPROXY] == "1" else "HeadOnly",
        "http_options": {"port": port},
        "controller_options": {"runtime_env": {"env_vars": front}},
        "applications": [{"name": "florence", "args": settings}],
    }
