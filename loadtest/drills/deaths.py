"""Processes that are killed, as by the kernel when memory runs out."""

from typing import ClassVar

import psutil

from loadtest.drills.cluster import end
from loadtest.drills.drill import Drill
from loadtest.drills.site import Site
from loadtest.drills.tally import Tally

BOXES = ("Ingress", "Preprocess", "Inference", "Postprocess", "Dispatcher")
CONTROLLER = "ray::ServeController"


class ReplicaKilled(Drill):
    """One of a box's two replicas dies; Serve starts another."""

    box: ClassVar[str]

    def strike(self, site: Site) -> None:
        """Kill the first."""
        self._before = site.cluster.replicas(self.box)
        end(self._before[:1])

    def is_over(self, site: Site) -> bool:
        """Whether there are as many as before, and all answer."""
        now = site.cluster.replicas(self.box)
        is_replaced = len(now) == len(self._before) and self._before[0] not in now
        return is_replaced and site.is_whole()


class IngressKilled(ReplicaKilled):
    """With the connections that it holds."""

    what = "one Ingress replica killed"
    box = "Ingress"


class PreprocessKilled(ReplicaKilled):
    """With the images that it reads."""

    what = "one Preprocess replica killed"
    box = "Preprocess"


class InferenceKilled(ReplicaKilled):
    """With the batch that it writes."""

    what = "one Inference replica killed"
    box = "Inference"


class PostprocessKilled(ReplicaKilled):
    """With the pictures that it draws."""

    what = "one Postprocess replica killed"
    box = "Postprocess"


class DispatcherKilled(ReplicaKilled):
    """With the leases that it holds, which run out."""

    what = "one Dispatcher replica killed"
    box = "Dispatcher"


class ControllerKilled(Drill):
    """Ray starts Serve's controller again, which finds the replicas as they were."""

    what = "Serve's controller killed"

    def strike(self, site: Site) -> None:
        """Kill it."""
        self._before = replicas(site)
        self._killed = site.cluster.called(CONTROLLER)
        end(self._killed)

    def is_over(self, site: Site) -> bool:
        """Whether another is there and has found all replicas."""
        now = site.cluster.called(CONTROLLER)
        return len(now) == 1 and now != self._killed and site.is_whole()

    def complaints(self, site: Site, tally: Tally) -> list[str]:
        """The replicas are the same processes as before."""
        is_same = replicas(site) == self._before
        return super().complaints(site, tally) + ([] if is_same else ["replicas were replaced"])


class HeadRestarted(Drill):
    """The head dies, first the process with the cluster's state, and is started elsewhere anew.

    Its state is on a disk that outlives it.
    """

    what = "the head's GCS killed; all of the head killed and started again"
    away_s = 5.0

    def strike(self, site: Site) -> None:
        """Kill the GCS."""
        self._before = replicas(site)
        self._controller = site.cluster.called(CONTROLLER)
        end(site.cluster.called("gcs_server"))

    def mend(self, site: Site) -> None:
        """Kill the rest of the head, and start another."""
        site.cluster.kill_head()
        site.cluster.start_head()

    def is_over(self, site: Site) -> bool:
        """Whether Serve is there again and has all its replicas, without a new deployment."""
        now = site.cluster.called(CONTROLLER)
        return len(now) == 1 and now != self._controller and site.is_whole()

    def complaints(self, site: Site, tally: Tally) -> list[str]:
        """The worker's replicas have outlived the head."""
        is_same = replicas(site) == self._before
        return super().complaints(site, tally) + ([] if is_same else ["replicas were replaced"])


def replicas(site: Site) -> set[psutil.Process]:
    """The processes of all boxes."""
    return {replica for box in BOXES for replica in site.cluster.replicas(box)}
