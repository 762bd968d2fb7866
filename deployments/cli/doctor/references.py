"""Are the Secrets there that the pods name? Values are never shown."""

from collections import defaultdict
from collections.abc import Iterator

from deployments.cli.doctor.kubectl import Document
from deployments.cli.doctor.release import Release
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip

Reference = tuple[str, str]  # a Secret and a key in it, empty for the Secret as a whole
TOKEN_KEY = "auth_token"


def secrets(release: Release) -> Verdict:
    """Each, with its keys.

    Raises:
        Refused: this account may not read Secrets.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for name, key in references(release):
        wanted[name] |= {key} if key else set()
    missing = [
        said for name, keys in sorted(wanted.items()) for said in lacking(release, name, keys)
    ]
    if missing:
        space = release.kubectl.namespace
        remedy = f"kubectl create secret generic NAME -n {space} --from-literal=KEY=…"
        return fail(", ".join(missing), remedy)
    return ok(f"{', '.join(sorted(wanted))} are there") if wanted else skip("none is named")


def lacking(release: Release, name: str, keys: set[str]) -> Iterator[str]:
    """What is not there of a Secret."""
    found = release.kubectl.get(f"{release.path('secrets')}/{name}")
    if found is None:
        yield f"there is no Secret {name}" + (f" with {', '.join(sorted(keys))}" if keys else "")
    elif absent := keys - (found.get("data") or {}).keys():
        yield f"Secret {name} has no {', '.join(sorted(absent))}"


def references(release: Release) -> Iterator[Reference]:
    """All that are named: by pods, and by Ray's cluster itself."""
    for _, template in release.templates():
        yield from in_pod(template["spec"])
    if name := release.wanted.get("authOptions", {}).get("secretName"):
        yield name, TOKEN_KEY
    password = release.wanted.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
    yield from key_of(password)


def in_pod(spec: Document) -> Iterator[Reference]:
    """Those of a pod, but for what it can do without."""
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        for variable in container.get("env") or ():
            yield from key_of(variable)
        for source in container.get("envFrom") or ():
            yield from whole(source.get("secretRef"), "name")
    for volume in spec.get("volumes") or ():
        yield from whole(volume.get("secret"), "secretName")
    for pull in spec.get("imagePullSecrets") or ():
        yield pull["name"], ""


def key_of(value: Document) -> Iterator[Reference]:
    """The key of a Secret that a value comes from."""
    reference = value.get("valueFrom", {}).get("secretKeyRef")
    if reference and not reference.get("optional"):
        yield reference["name"], reference["key"]


def whole(reference: Document | None, name: str) -> Iterator[Reference]:
    """A Secret that is taken as it is."""
    if reference and not reference.get("optional"):
        yield reference[name], ""
