"""Can somebody call, and can receivers trust our webhooks?"""

from collections.abc import Sequence
from pathlib import Path

from deployments.cli.doctor.places import obstacle
from deployments.cli.doctor.store import read_store
from deployments.cli.doctor.subject import Subject
from deployments.cli.doctor.verdict import Verdict, fail, ok, warn
from deployments.jobs.store import Store
from deployments.webhooks.signing import SUFFIX, PrivateKey, check_same, read_keys
from deployments.webhooks.webhook import KeyState, PublicKey

ANYBODY = 0o007  # of a file's mode; a Secret's files are readable for the pod's group
CREATE = "florence keys create --name NAME, or give FLORENCE_API_KEY"
GENERATE = "openssl genpkey -algorithm ed25519 -out"


def keys(subject: Subject) -> Verdict:
    """Keys in the settings, the environment and the store.

    Raises:
        SetupError: the store does not answer.
    """
    given = len(subject.settings.keys.hashes)
    stored = read_store(subject, count_valid)
    if given or stored:
        return ok(f"{given} in the settings, {'?' if stored is None else stored} in the store")
    if subject.is_laptop:
        return ok("one is made at the first start")
    if stored is None:
        return warn("none in the settings, and those in the store are not to be seen", CREATE)
    return warn("there is none, so nobody can call", CREATE)


async def count_valid(opened: Store) -> int:
    """How many keys of the store open the door."""
    now = await opened.now()
    return sum(key.is_valid(now) for key in await opened.keys())


def webhook_keys(subject: Subject) -> Verdict:
    """The private halves here, and how far they are those that are published.

    Raises:
        SetupError: a file is no key, or not the one that is published; the store does not answer.
    """
    folder = Path(subject.settings.webhooks.keys)
    here = read_keys(folder)
    if not here:
        return without_keys(folder, subject)
    exposed = [name for name in here if (folder / f"{name}{SUFFIX}").stat().st_mode & ANYBODY]
    if exposed:
        said = f"anybody on this machine can sign with {', '.join(exposed)}"
        return fail(said, f"chmod 600 {folder / exposed[0]}{SUFFIX}")
    return matched(folder, here, read_store(subject, signing_keys) or [])


async def signing_keys(opened: Store) -> Sequence[PublicKey]:
    """The public halves."""
    return await opened.signing_keys()


def without_keys(folder: Path, subject: Subject) -> Verdict:
    """What it means that there is none."""
    if obstacle(folder):
        remedy = f"put two there, as `{GENERATE} NAME.pem` makes them"
        return fail(f"none in {folder}, and none can be made", remedy)
    if subject.is_laptop or not subject.settings.store.url.startswith("postgres"):
        return ok(f"made in {folder} at the first start")
    remedy = "mount one Secret there on every node: k8s/README.md"
    return warn(f"none in {folder}: each node would make its own", remedy)


def matched(folder: Path, here: dict[str, PrivateKey], known: Sequence[PublicKey]) -> Verdict:
    """What it means that these are here and those are published.

    Raises:
        SetupError: one is another than the one published under its name.
    """
    by_id = {key.kid: key for key in known}
    for key in here.values():
        check_same(key, by_id.get(key.kid))
    away = [key.kid for key in known if key.state == KeyState.ACTIVE and key.kid not in here]
    waiting = [name for name in here if name not in by_id or by_id[name].state == KeyState.NEXT]
    if away:
        remedy = f"bring {away[0]}{SUFFIX}, or `florence webhooks rotate`"
        return warn(f"{away[0]}, which signs elsewhere, is not in {folder}", remedy)
    if len(waiting) < (1 if known else 2):
        remedy = f"{GENERATE} {folder}/NEXT.pem; receivers must know it a day before it signs"
        return warn(f"no next key in {folder}: none could follow one that leaks", remedy)
    return ok(f"{len(here)} in {folder}")
