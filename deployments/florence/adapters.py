"""The adapters that a deployment has beside its base: their names in inputs, and their files."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from deployments.errors import InvalidInput, SetupError, fault
from deployments.florence.adapter_files import (
    EMBEDDING,
    HEAD,
    LowRank,
    check_copies,
    read_adapter,
)
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.tensor_files import Floats, read_floats, weight_files, weight_headers
from deployments.settings import BASE, ModelSettings


def check_adapter(name: str | None, known: Collection[str]) -> None:
    """Refuse the name of an adapter that this deployment does not have.

    Raises:
        InvalidInput: its location is `adapter`, and its hint has the known names.
    """
    if name in (None, BASE, *known):
        return
    names = [BASE, *sorted(known)]
    expected = " or ".join(filter(None, [", ".join(map(repr, names[:-1])), repr(names[-1])]))
    message = f"Input should be {expected}"
    found = fault("literal_error", ("body", "adapter"), message, expected=expected)
    raise InvalidInput.of([found]).with_hint(
        f"This deployment's adapters are {', '.join(names[1:])}; {BASE} is the model without any."
        if known
        else f"This deployment has no adapters: leave out adapter, or give {BASE}."
    )


def read_adapters(
    settings: ModelSettings, checkpoint: Checkpoint
) -> dict[str, Mapping[str, LowRank]]:
    """What each adapter of the settings adds to which layer of the checkpoint.

    Raises:
        SetupError: one is incomplete or broken, does not fit, or must be merged to be used.
    """
    if not settings.adapters:
        return {}
    base = weight_headers(checkpoint.folder)
    found = {}
    for name, path in settings.adapters.items():
        try:
            adapter = read_adapter(Path(path).expanduser(), base)
            check_copies(adapter, partial(weight_of, checkpoint.folder))
        except SetupError as error:
            raise SetupError(f"adapter {name}: {error}") from None
        if adapter.is_dora:
            raise SetupError(
                f"adapter {name} in {path} is DoRA, which cannot stand beside its base: merge it "
                f"with florence convert {settings.path} DEST --adapter {path}"
            )
        found[name] = adapter.layers
    return found


def weight_of(folder: Path, module: str) -> Floats:
    """The weight of a module of the checkpoint in `folder`; a tied head has the embedding's.

    Raises:
        SetupError: the file is missing or cut off.
    """
    files = [read_floats(file) for file in weight_files(folder)]
    names = [f"{module}.weight", *([f"{EMBEDDING}.weight"] if module == HEAD else [])]
    return next(tensors[name] for name in names for tensors in files if name in tensors)
