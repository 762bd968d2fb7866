"""Releases under load: bad ones change nothing, and good ones disturb no client."""

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
from safetensors.numpy import load_file, save_file

from deployments.florence.checkpoint import ALL_FILES, folder
from deployments.local.config import Tree
from deployments.settings import ModelSettings
from tests.chaos.counts import LoadCounts
from tests.chaos.drill import Drill
from tests.chaos.faults import DEPLOYMENTS, replicas
from tests.chaos.installation import Installation
from tests.chaos.load import until

FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
FAILS_S = 240.0
WEIGHTS = "model.safetensors"
CHANGED = "model.language_model.shared.weight"


class BadRelease(Drill):
    """A release that cannot start is deployed, then the previous one again."""

    args: Tree
    says: ClassVar[str]  # in Serve's status message
    stopped_at: ClassVar[tuple[str, ...]] = DEPLOYMENTS  # those that keep their replicas

    def strike(self, installation: Installation) -> None:
        """Deploy it, and wait until Serve reports its failure."""
        self._before = self._kept(installation)
        installation.release.deploy(self.args)
        until(
            lambda: installation.release.status()["status"] in FAILED,
            FAILS_S,
            "the release has not failed",
        )
        self._message = str(installation.release.status())
        self._after = self._kept(installation)

    def mend(self, installation: Installation) -> None:
        """Deploy the previous release."""
        installation.release.deploy()

    def complaints(self, installation: Installation, counts: LoadCounts) -> list[str]:
        """The old replicas stayed, and the status has the cause."""
        found = super().complaints(installation, counts)
        if not self._before <= self._after:
            found.append("old replicas were stopped")
        if self.says not in self._message:
            found.append(f"the status does not say {self.says!r}")
        return found

    def _kept(self, installation: Installation) -> set[psutil.Process]:
        return {
            each
            for deployment in self.stopped_at
            for each in installation.cluster.replicas(deployment)
        }


class UnknownSetting(BadRelease):
    """An unknown setting is refused before any replica starts."""

    what = "release with a misspelt setting"
    args: Tree = {"inference": {"max_bach_size": 8}}  # noqa: RUF012, it is constant
    says = "max_bach_size"


class MissingModel(BadRelease):
    """The new replicas find no checkpoint."""

    what = "release whose model is not there"
    args: Tree = {"model": {"path": "/models/nowhere"}}  # noqa: RUF012, it is constant
    says = "/models/nowhere"


class BrokenWeights(BadRelease):
    """The model cannot be loaded; deployments that do not load it are replaced."""

    what = "release with a truncated checkpoint"
    says = "Inference"
    stopped_at = ("Inference",)

    def strike(self, installation: Installation) -> None:
        """Truncate a copy of the weights, and deploy it."""
        broken = copied(installation.folder / "broken")
        weights = broken / WEIGHTS
        weights.write_bytes(weights.read_bytes()[:100_000])
        self.args = {"model": {"path": str(broken)}}
        super().strike(installation)


class NewSettings(Drill):
    """Serve replaces every replica, some at a time."""

    what = "settings changed: all replicas replaced"
    args: Tree = {"inference": {"max_batch_size": 4}}  # noqa: RUF012, it is constant

    def strike(self, installation: Installation) -> None:
        """Deploy other settings, for good."""
        self._before = replicas(installation)
        installation.release.adopt(self.args)
        installation.release.deploy()

    def is_over(self, installation: Installation) -> bool:
        """Whether all old replicas are gone."""
        return installation.is_whole() and replicas(installation).isdisjoint(self._before)


class NewWeights(NewSettings):
    """The same with other weights; answers come from the old, then from the new."""

    what = "other weights: all replicas replaced"

    def strike(self, installation: Installation) -> None:
        """Change a copy of the weights a little, and deploy it."""
        retrained = copied(installation.folder / "retrained")
        tensors = load_file(retrained / WEIGHTS)
        noise = np.random.default_rng(0).normal(0, 0.02, tensors[CHANGED].shape)
        tensors[CHANGED] += noise.astype(tensors[CHANGED].dtype)
        save_file(tensors, retrained / WEIGHTS, metadata={"format": "pt"})
        self.args = {"model": {"path": str(retrained)}}
        super().strike(installation)

    def complaints(self, installation: Installation, counts: LoadCounts) -> list[str]:
        """There are old and new answers, and the last is new."""
        _, *others = counts.answers
        return [] if others == [counts.last_answer] else ["the new weights do not answer"]


class ReplicasStopped(Drill):
    """Each deployment is scaled down to one replica, and up again: replicas stop gracefully."""

    what = "a replica of each deployment stopped, and started again"

    def strike(self, installation: Installation) -> None:
        """Scale every deployment to one replica, and wait."""
        self._before = replicas(installation)
        installation.release.deploy(deployments=each_with(1))
        until(
            lambda: len(replicas(installation)) == len(self._before) // 2,
            FAILS_S,
            "they do not stop",
        )

    def mend(self, installation: Installation) -> None:
        """Scale to two again."""
        installation.release.deploy()

    def is_over(self, installation: Installation) -> bool:
        """Whether all are back."""
        return len(replicas(installation)) == len(self._before) and installation.is_whole()


def each_with(num_replicas: int) -> list[Tree]:
    """Options for a number of replicas of every deployment."""
    return [{"name": deployment, "num_replicas": num_replicas} for deployment in DEPLOYMENTS]


def copied(to: Path) -> Path:
    """A copy of the demo checkpoint."""
    shutil.copytree(folder(ModelSettings(path="demo"), ALL_FILES), to, dirs_exist_ok=True)
    return to
