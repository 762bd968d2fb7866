"""Checks what the settings name on this machine: packages, store, files and keys.

Nothing is made, migrated or fetched; the file that is written to `files.root` is removed again.
"""

import asyncio
import os
import platform
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TypeVar

import yaml

from deployments import __version__
from deployments.cli.doctor.check import Finding, fail, ok, skip, warn
from deployments.cli.options import with_store, without_password
from deployments.errors import SetupError, StoreUnavailable
from deployments.files.base import reason
from deployments.files.open import open_file_store
from deployments.files.write_probe import PROBE, probe
from deployments.jobs.open import MEMORY, SQLITE, StoreInfo, inspect_store
from deployments.jobs.store import Store
from deployments.local.config import Tree, compose, merge, read_yaml
from deployments.local.state import StateFolder
from deployments.settings import FileSettings, Settings, parse, with_environment
from deployments.webhooks.signing import SUFFIX, PrivateKey, check_same, read_keys
from deployments.webhooks.webhook import KeyState, PublicKey

T = TypeVar("T")
PACKAGE = "florence-serve"
PINNED = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==([\w.]+)$")
SLOW_S = 0.05  # each submit waits for several answers
CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 60.0
MIN_FREE_BYTES = 1_000_000_000
WORLD = 0o007  # of a file's mode; the files of a Secret are readable for the pod's group
CREATE = "florence keys create --name NAME, or give FLORENCE_API_KEY"
GENERATE = "openssl genpkey -algorithm ed25519 -out"


@dataclass(frozen=True)
class Setup:
    """Settings, and how to judge what is missing.

    `is_laptop`: `florence serve` makes it at its first start.
    `is_elsewhere`: the service runs on other machines, with their own GPU, Ray and disks.
    `load`: also load a large model.
    """

    settings: Settings
    is_laptop: bool = True
    is_elsewhere: bool = False
    load: bool = False

    @property
    def is_store_hidden(self) -> bool:
        return self.is_elsewhere and not self.settings.store.url.startswith("postgres")


def laptop_settings(state: StateFolder, given: Tree) -> Settings:
    """The settings of `florence serve` with this state folder.

    Raises:
        SetupError: a setting is wrong.
    """
    own = state.settings | {"keys": {"hashes": state.kept_hashes()}}
    return with_environment(compose(merge(own, given), {}).settings)


def config_settings(file: Path, given: Tree) -> Settings:
    """The settings of a Serve config, with this environment.

    Raises:
        SetupError: there is no such config, or a setting is wrong.
    """
    try:
        args = read_yaml(file)["applications"][0].get("args") or {}
    except OSError as error:
        raise SetupError(f"cannot read {file} ({error.strerror}): give --config a file") from None
    except (yaml.YAMLError, LookupError, TypeError, AttributeError):
        raise SetupError(f"{file} is no Serve config: give --config a serve_config.yaml") from None
    return with_environment(parse(merge(args, given)))


def check_versions() -> Finding:
    """Every package that is pinned to one version."""
    lines = (line for line in requires(PACKAGE) or () if "extra ==" not in line)
    pinned = [found for line in lines if (found := PINNED.match(line.partition(";")[0].strip()))]
    return compare_versions(
        {each[1]: each[2] for each in pinned}, {each[1]: installed(each[1]) for each in pinned}
    )


def compare_versions(wanted: dict[str, str], found: dict[str, str]) -> Finding:
    """The finding for these versions by package; an empty one is missing."""
    wrong = {name: want for name, want in wanted.items() if found[name] != want}
    if wrong:
        said = ", ".join(f"{name} {found[name] or 'is missing'}" for name in wrong)
        return fail(said, f"pip install {' '.join(f'{name}=={wrong[name]}' for name in wrong)}")
    packages = "".join(f", {name} {number}" for name, number in found.items())
    return ok(f"florence {__version__}, Python {platform.python_version()}{packages}")


def installed(name: str) -> str:
    """The version that is installed, without a build's own mark; empty for none."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


def check_store(setup: Setup) -> Finding:
    """Whether the store answers, and has this release's schema."""
    url = setup.settings.store.url
    if url == MEMORY:
        return warn(
            "kept in a temporary file", "give store.url, or a restart forgets every request"
        )
    if setup.is_store_hidden:
        return skip(f"{without_password(url)} is a file on the service's own node")
    found = asyncio.run(inspect_store(setup.settings.store))
    if found is None:
        return ok(f"{without_password(url)} is made at the first start")
    return store_finding(without_password(url), found)


def store_finding(url: str, found: StoreInfo) -> Finding:
    said = f"{url}, {found.server}, schema {found.schema}"
    if found.schema > found.latest:
        remedy = "run the newer release, or name another store"
        return fail(f"{said} of a newer release, this one knows {found.latest}", remedy)
    if found.schema == 0:
        return ok(f"{url}, {found.server}: empty, the first start makes its tables")
    if not found.is_current:
        remedy = "back it up; the first start migrates it, and older releases then refuse it"
        return warn(f"{said} of {found.latest}", remedy)
    if found.answer_s > SLOW_S:
        return warn(f"{said}, answers in {found.answer_s * 1000:.0f} ms", "move it nearer")
    return ok(said + (f", answers in {found.answer_s * 1000:.1f} ms" if found.answer_s else ""))


def check_clock(setup: Setup) -> Finding:
    """Whether the database's clock, by which leases and keys end, agrees with ours."""
    if setup.settings.store.url.startswith((SQLITE, MEMORY)):
        return skip("unknown" if setup.is_elsewhere else "the store uses this machine's clock")
    ahead_s = read_store(setup, clock_offset_s)
    if ahead_s is None:
        return skip("the store has no tables of this release yet")
    return clock_finding("the database", ahead_s)


def clock_finding(whose: str, ahead_s: float, resolution_s: float = 0.0) -> Finding:
    """The finding for a clock that is `ahead_s` before ours, read in steps of `resolution_s`."""
    remedy = "keep both with NTP (chrony, systemd-timesyncd)"
    off_s = max(0.0, abs(ahead_s) - resolution_s)
    said = f"that of {whose} is {abs(ahead_s):.1f} s {'before' if ahead_s > 0 else 'behind'} ours"
    if off_s > CLOCK_FAIL_S:
        return fail(f"{said}: files and signatures expire at the wrong time", remedy)
    return warn(said, remedy) if off_s > CLOCK_WARN_S else ok(f"that of {whose} agrees")


async def clock_offset_s(store: Store) -> float:
    """How far the store's clock is ahead of this machine's, in seconds."""
    await store.now()  # the first call may have to connect
    before = time.time()
    there = await store.now()
    return there - (before + time.time()) / 2


def read_store(setup: Setup, read: Callable[[Store], Awaitable[T]]) -> T | None:
    """What `read` makes of the store; None where there is none yet.

    Raises:
        SetupError: it does not answer.
    """
    settings = setup.settings.store

    async def inspect_and_read() -> T | None:
        found = await inspect_store(settings)
        return await with_store(settings.url, read) if found and found.schema else None

    if settings.url == MEMORY or setup.is_store_hidden:
        return None
    return asyncio.run(inspect_and_read())


def check_files(setup: Setup) -> Finding:
    """Whether a file can be written, read and removed in `files.root`, a folder or a bucket."""
    settings = setup.settings.files
    folder = Path(settings.root).expanduser().absolute()
    if "://" in settings.root or folder.is_dir():
        return probe_files(settings)
    if blocking := obstacle(folder):
        return unwritable(str(folder), f"{blocking} is no folder that can be written")
    return ok(f"{folder} is made at the first start")


def obstacle(path: Path) -> Path | None:
    """What prevents that a folder is made or written at `path`; None for nothing."""
    nearest = next(each for each in (path, *path.parents) if each.exists())
    is_open = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return None if is_open else nearest


def probe_files(settings: FileSettings) -> Finding:
    """Write a file, read it, and remove it.

    Raises:
        SetupError: the bucket cannot be listed.
    """
    store, root = open_file_store(settings), settings.root
    try:
        content = probe(store)
    except (StoreUnavailable, FileNotFoundError) as error:
        cause = error.__cause__
        return unwritable(root, reason(cause if isinstance(cause, Exception) else error))
    if content != PROBE:
        return fail(f"{root} gives back something else", "see what is in front of it")
    if "://" in root:
        return ok(f"{root} is written, read and deleted from")
    free = shutil.disk_usage(root).free
    said = f"{root} is writable, {free / 1e9:.1f} GB free"
    return ok(said) if free >= MIN_FREE_BYTES else warn(said, "make room, or lower files.expires_s")


def unwritable(root: str, why: str) -> Finding:
    bucket = "let its account write, read and delete there"
    folder = "make it writable, or name another in files.root"
    return fail(f"{root} cannot be written: {why}", bucket if "://" in root else folder)


def check_keys(setup: Setup) -> Finding:
    """Whether there is an API key in the settings, the environment or the store.

    Raises:
        SetupError: the store does not answer.
    """
    given = len(setup.settings.keys.hashes)
    stored = read_store(setup, count_valid)
    if given or stored:
        return ok(f"{given} in the settings, {'?' if stored is None else stored} in the store")
    if setup.is_laptop:
        return ok("one is made at the first start")
    if stored is None:
        return warn("none in the settings, and those in the store cannot be seen", CREATE)
    return warn("there is none, so no client can call", CREATE)


async def count_valid(store: Store) -> int:
    now = await store.now()
    return sum(key.is_valid(now) for key in await store.keys())


def check_webhook_keys(setup: Setup) -> Finding:
    """Whether the keys that sign webhooks are private, and the ones that are published.

    Raises:
        SetupError: a file is no key, or not the one that is published; the store does not answer.
    """
    folder = Path(setup.settings.webhooks.keys)
    here = read_keys(folder)
    if not here:
        return without_webhook_keys(folder, setup)
    exposed = [name for name in here if (folder / f"{name}{SUFFIX}").stat().st_mode & WORLD]
    if exposed:
        said = f"anybody on this machine can sign with {', '.join(exposed)}"
        return fail(said, f"chmod 600 {folder / exposed[0]}{SUFFIX}")
    published = read_store(setup, lambda store: store.signing_keys())
    return compare_webhook_keys(folder, here, published or [])


def without_webhook_keys(folder: Path, setup: Setup) -> Finding:
    if obstacle(folder):
        remedy = f"put two there, as `{GENERATE} NAME.pem` makes them"
        return fail(f"none in {folder}, and none can be made", remedy)
    if setup.is_laptop or not setup.settings.store.url.startswith("postgres"):
        return ok(f"made in {folder} at the first start")
    remedy = "mount one Secret there on every node: k8s/README.md"
    return warn(f"none in {folder}: each node would make its own", remedy)


def compare_webhook_keys(
    folder: Path, here: dict[str, PrivateKey], published: Sequence[PublicKey]
) -> Finding:
    """The finding for these private and public keys.

    Raises:
        SetupError: one differs from the one that is published under its name.
    """
    by_id = {key.kid: key for key in published}
    for key in here.values():
        check_same(key, by_id.get(key.kid))
    missing = [key.kid for key in published if key.state == KeyState.ACTIVE and key.kid not in here]
    following = [name for name in here if name not in by_id or by_id[name].state == KeyState.NEXT]
    if missing:
        remedy = f"bring {missing[0]}{SUFFIX}, or `florence webhooks rotate`"
        return warn(f"{missing[0]}, which signs elsewhere, is not in {folder}", remedy)
    if len(following) < (1 if published else 2):
        remedy = f"{GENERATE} {folder}/NEXT.pem; receivers must know it a day before it signs"
        return warn(f"no next key in {folder}: none could follow one that leaks", remedy)
    return ok(f"{len(here)} in {folder}")
