"""Reads the Kubernetes API through the operator's own kubectl, whose access is set up already."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.cli.doctor.verdict import Failed

Document = dict[str, Any]
TIMEOUT_S = 15.0
REFUSED = "Forbidden"
NOT_FOUND = "NotFound"
INFO = "see --kubeconfig, --context and `kubectl cluster-info`"


class Refused(Failed):
    """The account may not read it."""


@dataclass(frozen=True)
class Kubectl:
    """Which cluster, and which of its namespaces; what is empty is kubectl's own choice."""

    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = ""

    def with_namespace(self) -> "Kubectl":
        """The same with the context's namespace, where none was given.

        Raises:
            Failed: kubectl is missing, or has no such context.
        """
        if self.namespace:
            return self
        found = self._run("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
        return Kubectl(self.kubeconfig, self.context, found or "default")

    def get(self, path: str) -> Document | None:
        """The object or the list at a path of the API; None when there is none.

        Raises:
            Refused: the account may not read it.
            Failed: kubectl is missing, or the API does not answer.
        """
        try:
            found: Document = json.loads(self._run("get", "--raw", path))
        except LookupError:
            return None
        except ValueError:
            raise Failed(f"{path} is answered with no JSON", INFO) from None
        return found

    def items(self, path: str, labels: Mapping[str, str] | None = None) -> list[Document]:
        """The objects of a list, those with `labels` only.

        Raises:
            Refused, Failed: as for `get`.
        """
        selector = "%2C".join(f"{name}%3D{value}" for name, value in (labels or {}).items())
        found = self.get(f"{path}?labelSelector={selector}" if selector else path)
        return list((found or {}).get("items") or ())

    def _run(self, *words: str) -> str:
        if not shutil.which("kubectl"):
            raise Failed("there is no kubectl on PATH", "install it, or go where it is")
        try:
            done = subprocess.run(
                ["kubectl", *self._options(), *words],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"no answer from the cluster within {TIMEOUT_S:.0f} s", INFO) from None
        if done.returncode:
            raise explained(done.stderr)
        return done.stdout

    def _options(self) -> list[str]:
        named = {"kubeconfig": self.kubeconfig, "context": self.context}
        given = [f"--{name}={value}" for name, value in named.items() if value]
        return [*given, f"--request-timeout={TIMEOUT_S / 2:.0f}s"]


def explained(complaint: str) -> Exception:
    """What kubectl complains of: LookupError for what is not there."""
    line = next((each for each in reversed(complaint.splitlines()) if each.strip()), "no word")
    if f"({NOT_FOUND})" in line:
        return LookupError(line)
    if f"({REFUSED})" in line:
        return Refused(line, "ask for the right to read it")
    return Failed(f"kubectl: {line}", INFO)
