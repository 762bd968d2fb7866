"""The chart as it is published: `python -m k8s.dist`, or `make dist`.

Helm packs each file with its own time. Here all have that of the commit, so that the same commit
makes the same archive, bit for bit, and anybody can compare.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from k8s.generate.helm import CHART, packed

ROOT = CHART.parents[1]
MODES = {True: 0o755, False: 0o644}


def main() -> None:
    """Write the archive and its SHA-256 to `dist/`, and say so."""
    archive = publish(ROOT / "dist", commit_time())
    Console().print(f"made {archive} and its .sha256", soft_wrap=True)


def publish(folder: Path, time: int) -> Path:
    """The archive in `folder`, whose files are of `time`, in seconds since the epoch.

    Beside it is a file that `sha256sum --check` reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        chart = Path(scratch) / CHART.name
        shutil.copytree(CHART, chart)
        for path in (chart, *chart.rglob("*")):
            path.chmod(MODES[path.is_dir()])
            os.utime(path, (time, time))
        archive = packed(folder, chart)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_suffix(".tgz.sha256").write_text(f"{digest}  {archive.name}\n")
    return archive


def commit_time() -> int:
    """When what is packed was committed; SOURCE_DATE_EPOCH goes first."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return int(given or subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
