"""A whole installation on this machine: cluster, HAProxy, PostgreSQL, object store, application."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from deployments.local.haproxy import METRICS, ON, QUICK_END, STATS, confined, free_ports
from deployments.local.profile import Tree
from deployments.settings import hash_key
from loadtest.drills.bucket import Bucket
from loadtest.drills.cluster import Cluster
from loadtest.drills.database import Database
from loadtest.drills.load import Target, until
from loadtest.drills.release import Release

KEY = "florence-drills"
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
HEADS_LAUNCHER = """\
#!/bin/sh
sed -i {changes} "$3"  # -db -f FILE
exec {launcher} "$@"
"""
START_S = 240.0


@dataclass(frozen=True)
class Site:
    """All parts of it, for drills to break."""

    folder: Path
    target: Target
    cluster: Cluster
    database: Database
    bucket: Bucket
    release: Release

    def is_whole(self) -> bool:
        """Whether a client finds every part of the pipeline, and Serve has all its replicas."""
        return self.is_ready() and self.release.is_running()

    def is_ready(self) -> bool:
        """Whether a client finds every part of the pipeline."""
        with suppress(httpx2.HTTPError):
            url = f"{self.target.url}/ready"
            return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
        return False


@contextmanager
def site(haproxy: bool = True) -> Iterator[Site]:
    """Have it whole inside the block; nothing is left of it afterwards."""
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
        front = dict(stack.enter_context(confined())) if haproxy else {ON: "0"}
        for hasty in QUICK_END:  # a laptop's; here connections end as in production
            front.pop(hasty, None)
        launcher = front.pop(BINARY, "")  # not the same on both nodes
        heads = elsewhere(folder / "haproxy", launcher, port, front) if haproxy else ""
        cluster = Cluster(folder, bucket.environment | {BINARY: launcher}, {BINARY: heads})
        stack.callback(cluster.stop)
        cluster.start()
        over = configuration(port, front, database.url, bucket.url, folder)
        release = Release(cluster, over)
        target = Target(f"http://127.0.0.1:{port}", KEY)
        whole = Site(folder, target, cluster, database, bucket, release)
        release.deploy()
        until(whole.is_whole, START_S, "the service is not ready")
        yield whole


def elsewhere(file: Path, launcher: str, port: int, front: dict[str, str]) -> str:
    """A launcher of HAProxy for the head that listens at other ports than the worker's.

    Both are on one machine here, and clients are to come in by the worker, as on a cluster.
    """
    ports = [str(port), front[STATS], front[METRICS]]
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
    """Where this installation listens and keeps its things."""
    settings: dict[str, Any] = {
        "keys": {"hashes": [hash_key(KEY)]},
        "store": {"url": database_url},
        "files": {"root": files},
        "webhooks": {"keys": str(folder / "webhooks")},
    }
    return {
        "proxy_location": "EveryNode" if front[ON] == "1" else "HeadOnly",
        "http_options": {"port": port},
        "controller_options": {"runtime_env": {"env_vars": front}},
        "applications": [{"name": "florence", "args": settings}],
    }
