"""Adapters beside the base's weights: sequences of different adapters share a batch.

An adapter adds a product of low rank to some projections. The factors of all adapters that a pass
needs lie side by side in one matrix, so a projection costs two products more, however the
sequences are mixed: the first is for every adapter, then what is not a sequence's own is set to
zero, then comes the second. So no sequence sees anything of another's adapter.

On a GPU a pass always computes all adapters, so that a recorded graph fits every mix.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deployments.errors import SetupError

NONE = 0  # the number of no adapter; those that there are count from 1
VISION = ("model.vision_tower.", "model.multi_modal_projector.")


class Factors(Protocol):
    """What an adapter adds to a module's weight (out, in): `scale` times `up` times `down`."""

    @property
    def down(self) -> NDArray[Any]:
        """(rank, in)"""

    @property
    def up(self) -> NDArray[Any]:
        """(out, rank)"""

    @property
    def scale(self) -> float: ...


AdapterFactors = Mapping[str, Factors]  # by the names of the modules of transformers' model


@dataclass(frozen=True)
class Part:
    """One adapter's factors for one module: down (rank, in), and up (out, rank), already scaled."""

    number: int
    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Addition:
    """What is added to some columns of a projection's output: some hidden values times `up`."""

    hidden: slice
    columns: slice
    up: Tensor  # (columns, hidden)


@dataclass(frozen=True)
class Stack:
    """The factors of some adapters side by side: down (R, in), whose rows have `owners` (R,).

    Stacks with the same `key` have the same owners.
    """

    down: Tensor
    owners: Tensor
    key: tuple[int, ...]
    additions: Sequence[Addition]


class Selection:
    """Which adapter each sequence of the pass under way has; used by one thread.

    `active` are the adapters that the pass computes.
    """

    def __init__(self) -> None:
        self.active: tuple[int, ...] = ()
        self._numbers = torch.empty(0)
        self._foreign: dict[tuple[int, ...], Tensor] = {}

    def choose(self, numbers: Tensor, active: tuple[int, ...]) -> None:
        """Begin a pass of sequences with these adapters: (n,)."""
        self._numbers, self.active = numbers, active
        self._foreign.clear()

    def clear(self) -> None:
        """End the pass."""
        self.active = ()
        self._foreign.clear()

    def is_foreign(self, stack: Stack) -> Tensor:
        """Which rows of a stack are not of a sequence's own adapter: (n, 1, R)."""
        if stack.key not in self._foreign:
            self._foreign[stack.key] = (self._numbers[:, None] != stack.owners)[:, None]
        return self._foreign[stack.key]


class AdapterProduct:
    """What adapters add to a projection, whose output is that of some modules side by side.

    Args:
        modules: the output width of each module, and what adapters add to it.
    """

    def __init__(self, selection: Selection, modules: Sequence[tuple[int, Sequence[Part]]]) -> None:
        self.selection = selection
        self.modules = modules
        self._stacks: dict[tuple[int, ...], Stack | None] = {}

    def stack(self) -> Stack | None:
        """What the pass under way adds here, if anything."""
        active = self.selection.active
        if active not in self._stacks:
            self._stacks = {(): None}  # forgets the adapters that ran before
            self._stacks[active] = stacked(self.modules, active)
        return self._stacks[active]


def stacked(modules: Sequence[tuple[int, Sequence[Part]]], active: tuple[int, ...]) -> Stack | None:
    """The factors of the `active` adapters; None where they have none."""
    factors: list[Part] = []
    additions: list[Addition] = []
    row = column = 0
    for width, parts in modules:
        if found := [part for part in parts if part.number in active]:
            up = torch.cat([part.up for part in found], dim=1)
            hidden, columns = slice(row, row + up.shape[1]), slice(column, column + width)
            additions.append(Addition(hidden, columns, up))
            factors += found
            row = hidden.stop
        column += width
    if not additions:
        return None
    down = torch.cat([part.down for part in factors])
    key = tuple(part.number for part in factors for _ in range(len(part.down)))
    return Stack(down, torch.tensor(key, device=down.device), key, additions)


def product_of(modules: Sequence[nn.Linear]) -> AdapterProduct | None:
    """What adapters add to these modules side by side; None where there is nothing."""
    found: list[AdapterProduct | None] = [getattr(module, "low_rank", None) for module in modules]
    selection = next((each.selection for each in found if each is not None), None)
    if selection is None:
        return None
    parts = [
        (module.out_features, [] if each is None else each.modules[0][1])
        for module, each in zip(modules, found, strict=True)
    ]
    return AdapterProduct(selection, parts)


class Adapters:
    """The adapters of a model, by name and by number."""

    def __init__(self, names: Sequence[str], seeing: set[int], selection: Selection) -> None:
        self._numbers = {"": NONE, **{name: n for n, name in enumerate(names, NONE + 1)}}
        self._seeing = seeing
        self._selection = selection

    def number(self, name: str) -> int:
        """The number of an adapter; that of none for no name.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in self._numbers:
            raise ValueError(f"there is no adapter {name!r}")
        return self._numbers[name]

    def vision_number(self, name: str) -> int:
        """The same, but that of none where the adapter leaves the image tokens as they are."""
        number = self.number(name)
        return number if number in self._seeing else NONE

    @contextmanager
    def chosen(self, numbers: Tensor) -> Iterator[None]:
        """A pass of sequences with these adapters: (n,)."""
        every = tuple(range(NONE + 1, len(self._numbers)))
        if not numbers.is_cuda:
            every = tuple(number for number in numbers.unique().tolist() if number != NONE)
        self._selection.choose(numbers, every)
        try:
            yield
        finally:
            self._selection.clear()


def attach(florence: Any, adapters: Mapping[str, AdapterFactors]) -> Adapters | None:
    """Give the model's projections what these adapters add; None where there are none.

    Engines that are built from the model afterwards know it; transformers' own passes do not.

    Raises:
        SetupError: one does not fit the model, or changes what cannot be added to.
    """
    if not adapters:
        return None
    modules = dict(florence.named_modules())
    selection = Selection()
    seeing: set[int] = set()
    parts: dict[str, list[Part]] = {}
    for number, (name, factors) in enumerate(adapters.items(), NONE + 1):
        for module, pair in factors.items():
            parts.setdefault(module, []).append(part_of(number, name, modules, module, pair))
            if module.startswith(VISION):
                seeing.add(number)
    for module, found in parts.items():
        modules[module].low_rank = AdapterProduct(
            selection, [(modules[module].out_features, found)]
        )
    return Adapters(list(adapters), seeing, selection)


def part_of(
    number: int, name: str, modules: Mapping[str, nn.Module], module: str, factors: Factors
) -> Part:
    """The factors where and as the module's weights are.

    Raises:
        SetupError: they do not fit.
    """
    target = modules.get(module)
    if not isinstance(target, nn.Linear):
        raise SetupError(
            f"adapter {name} changes {module}, which is no projection of this model: "
            "it was made for another one"
        )
    weight = target.weight
    shape = (factors.up.shape[0], factors.down.shape[1])
    if shape != tuple(weight.shape):
        raise SetupError(
            f"adapter {name} changes {module} of {shape[0]} x {shape[1]} weights, this model's has "
            f"{weight.shape[0]} x {weight.shape[1]}: it was made for another one"
        )
    down, up = (torch.tensor(each, dtype=torch.float32) for each in (factors.down, factors.up))
    return Part(number, down.to(weight), (factors.scale * up).to(weight))
