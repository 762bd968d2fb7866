"""Are the packages those that this release was tested with?"""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

from deployments import __version__
from deployments.cli.doctor.verdict import Verdict, fail, ok

PACKAGE = "florence-serve"
PINNED = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==([\w.]+)$")


def versions() -> Verdict:
    """Of every package that is pinned to one version."""
    wanted = pinned()
    return judged(wanted, {name: installed(name) for name in wanted})


def judged(wanted: dict[str, str], found: dict[str, str]) -> Verdict:
    """What it means that these were found."""
    wrong = {name: want for name, want in wanted.items() if found[name] != want}
    if wrong:
        said = ", ".join(f"{name} {found[name] or 'is missing'}" for name in wrong)
        return fail(said, f"pip install {' '.join(f'{name}=={wrong[name]}' for name in wrong)}")
    packages = "".join(f", {name} {number}" for name, number in found.items())
    return ok(f"florence {__version__}, Python {platform.python_version()}{packages}")


def pinned() -> dict[str, str]:
    """The versions that must be, by package."""
    needed = (line for line in requires(PACKAGE) or () if "extra ==" not in line)
    found = (PINNED.match(line.partition(";")[0].strip()) for line in needed)
    return {each[1]: each[2] for each in found if each}


def installed(name: str) -> str:
    """The version that is here, without what tells one build from another; empty for none."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""
