"""Can files be written, read and removed where uploads and pictures are kept?"""

import shutil
from pathlib import Path

from deployments.cli.doctor.places import obstacle
from deployments.cli.doctor.subject import Subject
from deployments.cli.doctor.verdict import Verdict, fail, ok, warn
from deployments.errors import StoreUnavailable
from deployments.files.base import OPAQUE, reason
from deployments.files.open import open_file_store
from deployments.settings import FileSettings

PROBE = b"florence doctor"
PROBE_S = 60.0
LEAST_FREE = 1_000_000_000  # bytes


def files(subject: Subject) -> Verdict:
    """A folder, or a bucket."""
    settings = subject.settings.files
    if "://" in settings.root:
        return probed(settings)
    folder = Path(settings.root).expanduser().absolute()
    return probed(settings) if folder.is_dir() else place_for(folder)


def place_for(folder: Path) -> Verdict:
    """Whether a folder can be made."""
    if blocking := obstacle(folder):
        return unwritable(str(folder), f"{blocking} is no folder that can be written")
    return ok(f"{folder} is made at the first start")


def probed(settings: FileSettings) -> Verdict:
    """What comes of writing a file, reading and removing it.

    Raises:
        SetupError: the bucket cannot be listed.
    """
    store = open_file_store(settings)
    try:
        file = store.put(PROBE, OPAQUE, PROBE_S)
        came_back = store.read(file, 0, file.size)
        store.remove(file.name)
    except (StoreUnavailable, FileNotFoundError) as error:
        cause = error.__cause__
        return unwritable(settings.root, reason(cause if isinstance(cause, Exception) else error))
    if came_back != PROBE:
        return fail(f"{settings.root} gives back something else", "see what stands before it")
    return judged_by_room(settings.root)


def unwritable(root: str, why: str) -> Verdict:
    """What it means that no file can be kept."""
    bucket = "let its account write, read and delete there"
    folder = "make it writable, or name another in files.root"
    return fail(f"{root} cannot be written: {why}", bucket if "://" in root else folder)


def judged_by_room(root: str) -> Verdict:
    """What it means that files can be kept there."""
    if "://" in root:
        return ok(f"{root} is written, read and deleted from")
    free = shutil.disk_usage(root).free
    said = f"{root} is writable, {free / 1e9:.1f} GB free"
    return ok(said) if free >= LEAST_FREE else warn(said, "make room, or lower files.expires_s")
