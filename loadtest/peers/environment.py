"""The virtual environment of a peer, made at its first use under out/peers/.

torch goes first and by itself, as in scripts/install; requirements-NAME.txt pins all the rest.
"""

import subprocess
import venv
from pathlib import Path

from deployments.errors import SetupError

FOLDER = Path("out/peers")
TORCH = "torch==2.13.0"


def python_of(name: str) -> Path:
    """The interpreter of the environment in which the peer called `name` is installed.

    Raises:
        SetupError: it could not be installed.
    """
    folder = FOLDER / name
    wanted = requirements(name).read_text()
    stamp = folder / ".installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        install(name, folder)
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def requirements(name: str) -> Path:
    return Path(__file__).with_name(f"requirements-{name}.txt")


def install(name: str, folder: Path) -> None:
    venv.create(folder, clear=True, with_pip=True)
    pins, log = str(requirements(name)), folder / "install.log"
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    with log.open("w") as output:
        for wanted in ([TORCH, "--constraint", pins], ["--requirement", pins]):
            command = [*pip, *wanted]
            if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
                raise SetupError(f"{name} could not be installed: see the end of {log}")
