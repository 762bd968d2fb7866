"""A Ray cluster on this machine that grows and shrinks by Ray's own autoscaler.

Ray's AutoscalingCluster reads a file that the wheel lacks, and ends every Ray on the machine.
This one has a folder and ports of its own, and ends what it has started.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)

from deployments.ray_compat import ONE_MACHINE

ROOT = Path(__file__).parents[2]
HEAD, NODE = "head", "node"  # resources that only the head has, and only the others
PROVIDER = FakeMultiNodeProvider.__module__ + ".FakeMultiNodeProvider"
STORE_BYTES = 100_000_000
START_S = 120


@contextmanager
def growing_cluster(folder: Path, max_workers: int) -> Iterator[dict[str, str]]:
    """A cluster of a head and at most `max_workers` GPU nodes; yields its environment.

    Its files are under `folder`, whose path has to be short: sockets are among them.
    """
    port = free_port()
    file = folder / "cluster.json"
    file.write_text(json.dumps(cluster_config(f"127.0.0.1:{port}", max_workers)))
    key = access()
    try:
        subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
                *(
                    "--node-ip-address=127.0.0.1",
                    f"--port={port}",
                    f"--ray-client-server-port={free_port()}",
                ),
                *(f"--temp-dir={folder}", f"--autoscaling-config={file}", "--num-cpus=4"),
                *(f'--resources={{"{HEAD}": 1}}', f"--object-store-memory={STORE_BYTES}"),
                *("--include-dashboard=false", "--disable-usage-stats"),
            ],
            env=os.environ | ONE_MACHINE | key | environment(),
            check=True,
            capture_output=True,
            timeout=START_S,
        )
        yield key | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        end(folder)


def access() -> dict[str, str]:
    """The environment with a new token, which all processes of a cluster share."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def environment() -> dict[str, str]:
    """The environment of a head with autoscaler version 2 and simulated nodes."""
    return {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "PYTHONPATH": str(ROOT),
    }


def cluster_config(address: str, max_workers: int) -> dict[str, Any]:
    """The configuration of Ray's autoscaler."""
    nothing: dict[str, list[str]] = {
        name: []
        for name in (
            "cluster_synced_files",
            "head_setup_commands",
            "head_start_ray_commands",
            "initialization_commands",
            "rsync_exclude",
            "rsync_filter",
            "setup_commands",
            "worker_setup_commands",
            "worker_start_ray_commands",
        )
    }
    worker = {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES}
    return {
        "cluster_name": "growing",
        "max_workers": max_workers,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.05,
        "head_node_type": "ray.head.default",
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": 4, HEAD: 1},
                "node_config": {},
                "max_workers": 0,
            },
            "gpu": {
                "resources": worker,
                "node_config": {},
                "min_workers": 0,
                "max_workers": max_workers,
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **nothing,
    }


def end(folder: Path) -> None:
    """Kill every process with files under `folder`, and its children."""
    ours = [process for process in psutil.process_iter() if is_of(process, folder)]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            ours += process.children(recursive=True)
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ours, timeout=10)


def is_of(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started with files under `folder`."""
    with suppress(psutil.Error):
        return process.pid != os.getpid() and str(folder) in " ".join(process.cmdline())
    return False


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
