"""Draws an overview: columns of small tables, which fit 80 characters by 24 lines."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deployments.cli.top.overview import Cpu, Engine, Key, Overview, Timing

NOTHING = "–"
BAR = 12  # characters
LATE_S = 30.0
WIDE = 120  # characters
WEBHOOKS = ("dead", "pending", "delivered")  # the worst first: the end of a line may be cut
BUSY = 0.9


class Screen:
    """The whole of it, in three columns where there is room; `trouble` is why it is not of now."""

    def __init__(self, shown: Overview, title: str, trouble: str = "") -> None:
        self._shown = shown
        self._title = title
        self._trouble = trouble

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._shown
        yield head(shown, self._title, self._trouble)
        if options.max_width >= WIDE:
            yield columns(
                Group(*traffic(shown), *engine(shown.engine), *keys(shown.keys)),
                Group(*queue(shown), *stages(shown.stages), *retries(shown)),
                Group(*cpu(shown.cpu), *store(shown), *webhooks(shown)),
            )
        else:
            yield columns(left(shown), right(shown))


def head(shown: Overview, title: str, trouble: str) -> Text:
    """One line: what is looked at, over how long, and what is wrong."""
    told = Text.assemble(("florence top", "bold"), f"  {title}  ", no_wrap=True)
    told.append(f"last {shown.seconds:.0f} s", "dim")
    if trouble:
        told.append(f"  {trouble}", "bold red")
    elif shown.store.is_up is False:
        told.append("  the store is away", "bold red")
    return told


def columns(*sides: RenderableType) -> Table:
    """Side by side."""
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for _ in sides:
        grid.add_column(ratio=1)
    grid.add_row(*sides)
    return grid


def left(shown: Overview) -> RenderableType:
    """What comes in, what the model makes of it, and what that costs."""
    return Group(*traffic(shown), *engine(shown.engine), *cpu(shown.cpu), *keys(shown.keys))


def right(shown: Overview) -> RenderableType:
    """What waits, how long things take, and what goes wrong."""
    return Group(
        *queue(shown), *stages(shown.stages), *store(shown), *webhooks(shown), *retries(shown)
    )


def section(name: str, *headers: str) -> Table:
    """An empty table with a title; all columns but the first hold numbers."""
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="none", pad_edge=False)
    table.add_column(Text(name, "bold cyan"), no_wrap=True, ratio=1)
    for header in headers:
        table.add_column(Text(header, "dim"), justify="right", no_wrap=True)
    return table


def line(name: str, *parts: str) -> Text:
    """A title and what belongs to it in one line, of which the end may be cut."""
    told = "  ".join(part for part in parts if part) or NOTHING
    return Text.assemble((f"{name}  ", "bold cyan"), told, no_wrap=True, overflow="ellipsis")


def traffic(shown: Overview) -> Iterable[RenderableType]:
    """Requests over HTTP by status, and the runs among them."""
    seen = shown.traffic
    total = sum(seen.by_status_per_s.values()) if seen.by_status_per_s else None
    yield line("Traffic", f"{count(total)}/s", f"{count(seen.running, 0)} running")
    yield statuses(seen.by_status_per_s)
    yield Text(f"runs {count(seen.runs.per_s)}/s  {span(seen.runs)}", no_wrap=True)


def statuses(rates: Mapping[str, float]) -> Text:
    """Rates by status; errors of the service stand out."""
    told = Text(no_wrap=True, overflow="ellipsis")
    for status, rate in sorted(rates.items(), key=lambda each: -each[1]):
        if rate > 0:
            colour = {"5": "bold red", "4": "yellow"}.get(status[:1], "green")
            told.append(f"{status} ", colour).append(f"{count(rate)}  ")
    return told if told.plain else Text(NOTHING)


def engine(seen: Engine) -> Iterable[RenderableType]:
    """How well the model is used."""
    slots = f"{count(seen.slots_taken, 0)}/{count(seen.slots, 0)} slots"
    yield line("Model", f"{seen.replicas}x", slots, f"{count(seen.waiting, 0)} waiting")
    yield Text.assemble("busy ", bar(seen.busy), f" {percent(seen.busy)}")
    yield Text.assemble("fill ", bar(seen.fill), f" {percent(seen.fill)}")
    yield Text(f"{count(seen.images_per_s)} images/s  {count(seen.tokens_per_s)} tokens/s")
    yield Text(f"begun {listed(seen.begun_per_s)}", no_wrap=True, overflow="ellipsis")


def cpu(deployments: Mapping[str, Cpu]) -> Iterable[RenderableType]:
    """Processor time by deployment."""
    table = section("CPU", "cores", "per image")
    for deployment, used in deployments.items():
        table.add_row(deployment, f"{used.cores:.2f}", duration(used.per_image_s))
    yield table


def keys(found: Mapping[str, Key]) -> Iterable[RenderableType]:
    """The keys that ask most."""
    table = section("Keys", "asked/s", "refused", "model", "run")
    for name, key in found.items():
        refused = Text(count(key.refused_per_s), "yellow" if key.refused_per_s else "")
        table.add_row(
            escape(name), count(key.requests_per_s), refused, percent(key.model),
            count(key.running, 0),
        )  # fmt: skip
    yield table


def queue(shown: Overview) -> Iterable[RenderableType]:
    """What waits, and the replicas that are wanted for it."""
    seen = shown.queue
    waiting, running = seen.requests.get("queued"), seen.requests.get("running")
    late = (seen.oldest_s or 0) > LATE_S
    yield line("Queue", f"{count(waiting, 0)} waiting", f"{count(running, 0)} running")
    yield Text.assemble("oldest ", (duration(seen.oldest_s), "bold red" if late else ""))
    yield Text(f"ended {listed(seen.outcomes_per_s)}", no_wrap=True, overflow="ellipsis")
    for deployment, told in shown.autoscaling.items():
        wanted, demand = told.get("wanted_replicas"), told.get("demand")
        stale = "  stale" if told.get("stale") else ""
        text = f"{deployment} wants {count(wanted, 0)} for {count(demand, 0)}{stale}"
        yield Text(text, "red" if stale else "", no_wrap=True, overflow="ellipsis")


def stages(found: Mapping[str, Timing]) -> Iterable[RenderableType]:
    """How long a request is where."""
    table = section("Stages", "per s", "p50", "p95")
    for name, taken in found.items():
        if taken.per_s is not None:
            table.add_row(name, *row(taken))
    yield table


def store(shown: Overview) -> Iterable[RenderableType]:
    """The store's calls and its room."""
    seen = shown.store
    table = section("Store", "per s", "p50", "p95")
    for name, taken in seen.calls.items():
        table.add_row(name, *row(taken))
    yield table
    if seen.errors_per_s or seen.size_bytes is not None:
        free = f", {size(seen.free_bytes)} free" if seen.free_bytes is not None else ""
        errors = f"  {count(seen.errors_per_s)} errors/s" if seen.errors_per_s else ""
        yield Text.assemble(f"{size(seen.size_bytes)}{free}", (errors, "bold red"), no_wrap=True)


def webhooks(shown: Overview) -> Iterable[RenderableType]:
    """What is to be told to others."""
    seen = shown.webhooks
    known = {state: seen.webhooks[state] for state in WEBHOOKS if seen.webhooks.get(state)}
    told = Text.assemble(("Webhooks  ", "bold cyan"), no_wrap=True, overflow="ellipsis")
    for state, number in known.items():
        told.append(f"{count(number, 0)} {state}  ", "bold red" if state == "dead" else "")
    yield told if known else line("Webhooks", NOTHING if not seen.webhooks else "none")
    if seen.overdue_s:
        yield Text(f"overdue {duration(seen.overdue_s)}", "yellow")


def retries(shown: Overview) -> Iterable[RenderableType]:
    """What is done again, and why."""
    yield line("Retries", listed(shown.retries_per_s, "none"))


def row(taken: Timing) -> Sequence[str]:
    """A histogram in three cells."""
    return count(taken.per_s), duration(taken.p50_s), duration(taken.p95_s)


def span(taken: Timing) -> str:
    """Its quantiles in words."""
    return f"p50 {duration(taken.p50_s)}  p95 {duration(taken.p95_s)}"


def listed(rates: Mapping[str, float], none: str = NOTHING) -> str:
    """Rates by name, the greatest first; what does not happen is left out."""
    ordered = sorted(rates.items(), key=lambda each: -each[1])
    return "  ".join(f"{name} {count(rate)}" for name, rate in ordered if rate > 0) or none


def bar(share: float | None) -> Text:
    """A share as a bar."""
    filled = round(BAR * min(1.0, share or 0.0))
    colour = "yellow" if (share or 0.0) > BUSY else "green"
    return Text.assemble(("━" * filled, colour), ("━" * (BAR - filled), "bright_black"))


def percent(share: float | None) -> str:
    """A share in per cent."""
    return NOTHING if share is None else f"{share:.0%}"


def count(number: float | None, digits: int = 1) -> str:
    """A number in few characters."""
    if number is None:
        return NOTHING
    return f"{number:,.0f}" if number >= 100 or not digits else f"{number:.{digits}f}"


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def size(number: float | None) -> str:
    """Bytes in the unit that suits them."""
    if number is None:
        return NOTHING
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
