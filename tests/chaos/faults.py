"""Faults: killed processes, and PostgreSQL or S3 that stop."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import ClassVar

import asyncpg
import psutil

from tests.chaos.cluster import end
from tests.chaos.counts import LoadCounts
from tests.chaos.drill import Drill
from tests.chaos.installation import Installation

DEPLOYMENTS = ("Ingress", "Preprocess", "Inference", "Postprocess", "Dispatcher")
CONTROLLER = "ray::ServeController"


class ReplicaKilled(Drill):
    """One of a deployment's two replicas dies; Serve starts another."""

    deployment: ClassVar[str]

    def strike(self, installation: Installation) -> None:
        """Kill the first."""
        self._before = installation.cluster.replicas(self.deployment)
        end(self._before[:1])

    def is_over(self, installation: Installation) -> bool:
        """Whether the number of replicas is as before, and all answer."""
        now = installation.cluster.replicas(self.deployment)
        is_replaced = len(now) == len(self._before) and self._before[0] not in now
        return is_replaced and installation.is_whole()


class IngressKilled(ReplicaKilled):
    """With the connections that it holds."""

    what = "one Ingress replica killed"
    deployment = "Ingress"


class PreprocessKilled(ReplicaKilled):
    """With the images that it reads."""

    what = "one Preprocess replica killed"
    deployment = "Preprocess"


class InferenceKilled(ReplicaKilled):
    """With the batch that it writes."""

    what = "one Inference replica killed"
    deployment = "Inference"


class PostprocessKilled(ReplicaKilled):
    """With the pictures that it draws."""

    what = "one Postprocess replica killed"
    deployment = "Postprocess"


class DispatcherKilled(ReplicaKilled):
    """With the leases that it holds, which run out."""

    what = "one Dispatcher replica killed"
    deployment = "Dispatcher"


class ControllerKilled(Drill):
    """Serve's controller dies; Ray starts it again, and it finds the replicas."""

    what = "Serve's controller killed"

    def strike(self, installation: Installation) -> None:
        """Kill it."""
        self._before = replicas(installation)
        self._killed = installation.cluster.called(CONTROLLER)
        end(self._killed)

    def is_over(self, installation: Installation) -> bool:
        """Whether a new controller has found all replicas."""
        now = installation.cluster.called(CONTROLLER)
        return len(now) == 1 and now != self._killed and installation.is_whole()

    def complaints(self, installation: Installation, counts: LoadCounts) -> list[str]:
        """The replicas are the same processes as before."""
        is_same = replicas(installation) == self._before
        found = super().complaints(installation, counts)
        return found if is_same else [*found, "replicas were replaced"]


class HeadRestarted(Drill):
    """The head dies, first its GCS, and is started again at another address.

    Its state is on a disk that outlives it.
    """

    what = "the head's GCS killed; all of the head killed and started again"
    away_s = 5.0

    def strike(self, installation: Installation) -> None:
        """Kill the GCS."""
        self._before = replicas(installation)
        self._controller = installation.cluster.called(CONTROLLER)
        end(installation.cluster.called("gcs_server"))

    def mend(self, installation: Installation) -> None:
        """Kill the rest of the head, and start another."""
        installation.cluster.kill_head()
        installation.cluster.start_head()

    def is_over(self, installation: Installation) -> bool:
        """Whether Serve has all its replicas again, without a new deployment."""
        now = installation.cluster.called(CONTROLLER)
        return len(now) == 1 and now != self._controller and installation.is_whole()

    def complaints(self, installation: Installation, counts: LoadCounts) -> list[str]:
        """The worker node's replicas survived."""
        is_same = replicas(installation) == self._before
        found = super().complaints(installation, counts)
        return found if is_same else [*found, "replicas were replaced"]


def replicas(installation: Installation) -> set[psutil.Process]:
    """The processes of all deployments."""
    cluster = installation.cluster
    return {replica for name in DEPLOYMENTS for replica in cluster.replicas(name)}


class DatabaseRestarted(Drill):
    """PostgreSQL is stopped and started at once, as for an update."""

    what = "PostgreSQL restarted"

    def strike(self, installation: Installation) -> None:
        """Stop it, cutting every connection."""
        installation.database.stop()

    def mend(self, installation: Installation) -> None:
        """Start it."""
        installation.database.start()


class DatabaseAway(DatabaseRestarted):
    """PostgreSQL is down for a while: a failover."""

    what = "PostgreSQL away for 6 s"
    away_s = 6.0


class DatabaseConnectionsCut(Drill):
    """PostgreSQL ends every connection of the service, as a failover does."""

    what = "PostgreSQL's connections cut"

    def strike(self, installation: Installation) -> None:
        """Cut them."""
        terminate_backends(installation.database.url)


class DatabaseProcessesKilled(Drill):
    """PostgreSQL's backends get SIGKILL; it recovers from its log."""

    what = "PostgreSQL's processes killed"

    def strike(self, installation: Installation) -> None:
        """Kill them."""
        kill_backends(installation.database.url)


class FilesAway(Drill):
    """The object store refuses connections; answers come without their pictures."""

    what = "object store away for 6 s"
    away_s = 6.0

    def strike(self, installation: Installation) -> None:
        """Kill it."""
        installation.bucket.stop()

    def mend(self, installation: Installation) -> None:
        """Start it."""
        installation.bucket.start()


class FilesFrozen(Drill):
    """The object store accepts connections and does not answer."""

    what = "object store silent for 15 s"
    away_s = 15.0

    def strike(self, installation: Installation) -> None:
        """Freeze it."""
        installation.bucket.freeze()

    def mend(self, installation: Installation) -> None:
        """Let it go on."""
        installation.bucket.thaw()

    def complaints(self, installation: Installation, counts: LoadCounts) -> list[str]:
        """No request waited for the repair."""
        waited = counts.longest_s >= self.away_s
        found = super().complaints(installation, counts)
        return [*found, "requests waited for it"] if waited else found


OTHERS = "backend_type = 'client backend' AND pid <> pg_backend_pid()"


def kill_backends(url: str) -> None:
    """Kill the service's backends with SIGKILL; the server then restarts."""
    for pid in asyncio.run(ask(url, f"SELECT pid FROM pg_stat_activity WHERE {OTHERS}")):
        with suppress(ProcessLookupError):  # the first death makes the server end the others
            os.kill(pid, signal.SIGKILL)


def terminate_backends(url: str) -> None:
    """Cut every connection of the service, as a failover does."""
    asyncio.run(ask(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}"))


async def ask(url: str, question: str) -> list[int]:
    """The first column of the rows, of which there is at least one."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(question)
    await connection.close()
    assert rows, "no client is connected"
    return [int(row[0]) for row in rows]
