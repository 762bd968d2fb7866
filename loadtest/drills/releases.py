"""Releases under load: bad ones, which must change nothing, and good ones, which nobody notices."""

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
from safetensors.numpy import load_file, save_file

from deployments.florence.checkpoint import ALL_FILES, folder
from deployments.local.profile import Tree
from deployments.settings import ModelSettings
from loadtest.drills.deaths import BOXES, replicas
from loadtest.drills.drill import Drill
from loadtest.drills.load import until
from loadtest.drills.site import Site
from loadtest.drills.tally import Tally

FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
FAILS_S = 240.0
WEIGHTS = "model.safetensors"
CHANGED = "model.language_model.shared.weight"


class BadRelease(Drill):
    """A release that cannot start is deployed; afterwards the one before it, again."""

    args: Tree
    says: ClassVar[str]  # in what Serve tells of it
    stopped_at: ClassVar[tuple[str, ...]] = BOXES  # those that keep their replicas

    def strike(self, site: Site) -> None:
        """Deploy it, and wait until Serve has given it up."""
        self._before = self._kept(site)
        site.release.deploy(self.args)
        until(lambda: site.release.status()["status"] in FAILED, FAILS_S, "the release stands")
        self._told = str(site.release.status())
        self._after = self._kept(site)

    def mend(self, site: Site) -> None:
        """Deploy the release before it."""
        site.release.deploy()

    def complaints(self, site: Site, tally: Tally) -> list[str]:
        """The old replicas were there throughout, and the status says what is wrong."""
        found = super().complaints(site, tally)
        if not self._before <= self._after:
            found.append("old replicas were stopped")
        if self.says not in self._told:
            found.append(f"the status does not say {self.says!r}")
        return found

    def _kept(self, site: Site) -> set[psutil.Process]:
        return {each for box in self.stopped_at for each in site.cluster.replicas(box)}


class UnknownSetting(BadRelease):
    """A setting that does not exist is refused before anything is started."""

    what = "release with a misspelt setting"
    args: Tree = {"inference": {"max_bach_size": 8}}  # noqa: RUF012, nobody changes it
    says = "max_bach_size"


class MissingModel(BadRelease):
    """The new replicas find no checkpoint."""

    what = "release whose model is not there"
    args: Tree = {"model": {"path": "/models/nowhere"}}  # noqa: RUF012, nobody changes it
    says = "/models/nowhere"


class BrokenWeights(BadRelease):
    """The model cannot be loaded; the other boxes, which do not load it, go over to the new."""

    what = "release with a truncated checkpoint"
    says = "Inference"
    stopped_at = ("Inference",)

    def strike(self, site: Site) -> None:
        """Truncate a copy of the weights, and deploy it."""
        broken = copied(site.folder / "broken")
        weights = broken / WEIGHTS
        weights.write_bytes(weights.read_bytes()[:100_000])
        self.args = {"model": {"path": str(broken)}}
        super().strike(site)


class NewSettings(Drill):
    """Serve replaces every replica, some at a time."""

    what = "settings changed: all replicas replaced"
    args: Tree = {"inference": {"max_batch_size": 4}}  # noqa: RUF012, nobody changes it

    def strike(self, site: Site) -> None:
        """Deploy other settings, for good."""
        self._before = replicas(site)
        site.release.adopt(self.args)
        site.release.deploy()

    def is_over(self, site: Site) -> bool:
        """Whether none of the replicas before is left."""
        return site.is_whole() and replicas(site).isdisjoint(self._before)


class NewWeights(NewSettings):
    """The same with other weights; answers come from the old, then from the new."""

    what = "other weights: all replicas replaced"

    def strike(self, site: Site) -> None:
        """Change a copy of the weights a little, and deploy it."""
        retrained = copied(site.folder / "retrained")
        tensors = load_file(retrained / WEIGHTS)
        noise = np.random.default_rng(0).normal(0, 0.02, tensors[CHANGED].shape)
        tensors[CHANGED] += noise.astype(tensors[CHANGED].dtype)
        save_file(tensors, retrained / WEIGHTS, metadata={"format": "pt"})
        self.args = {"model": {"path": str(retrained)}}
        super().strike(site)

    def complaints(self, site: Site, tally: Tally) -> list[str]:
        """There are two kinds of answers, the last of the new kind."""
        _, *others = tally.answers
        return [] if others == [tally.last_answer] else ["the new weights do not answer"]


class ReplicasStopped(Drill):
    """Each box is scaled down to one replica, and up again: replicas stop gracefully."""

    what = "a replica of each box stopped, and started again"

    def strike(self, site: Site) -> None:
        """Ask for one of each, and wait until there is."""
        self._before = replicas(site)
        site.release.deploy(deployments=each_with(1))
        until(lambda: len(replicas(site)) == len(self._before) // 2, FAILS_S, "they do not stop")

    def mend(self, site: Site) -> None:
        """Ask for two again."""
        site.release.deploy()

    def is_over(self, site: Site) -> bool:
        """Whether all are back."""
        return len(replicas(site)) == len(self._before) and site.is_whole()


def each_with(num_replicas: int) -> list[Tree]:
    """Options that give every box so many replicas."""
    return [{"name": box, "num_replicas": num_replicas} for box in BOXES]


def copied(to: Path) -> Path:
    """A copy of the demo checkpoint."""
    shutil.copytree(folder(ModelSettings(path="demo"), ALL_FILES), to, dirs_exist_ok=True)
    return to
