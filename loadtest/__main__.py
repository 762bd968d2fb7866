"""`make loadtest`: the command `python -m loadtest SCENARIO`, which runs Locust and judges.

    python -m loadtest steady --rate 10 --duration 60s
    python -m loadtest burst --url https://florence.example.com --key KEY --max-p95 20s

Exit codes: 0 every threshold was kept, 1 one was missed, 2 no load was made (a line says why).
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import typer

from deployments.errors import SetupError
from deployments.florence.tasks import APP
from deployments.local.ports import free_port
from deployments.local.signals import raise_interrupts
from loadtest.arrivals import Pattern
from loadtest.bench.launch import LocalService, local_service
from loadtest.bench.processes import Cost
from loadtest.images import images_in
from loadtest.scenarios import SCENARIOS, Scenario, ScenarioRun, Thresholds
from loadtest.units import bound, bound_s, number, rate, seconds, shown_s

FOLDER = Path("out/loadtest")
ROOT = Path(__file__).parents[1]
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
KEY = "FLORENCE_API_KEY"
RECEIVER = "FLORENCE_RECEIVER"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_ARRIVALS = 5_000_000
GATHER_S = 300  # for workers to come; Kubernetes may have to start nodes for them
VERDICTS = {0: True, 10: False}  # exit codes of Locust with our file
THRESHOLDS = [field.name for field in fields(Thresholds)]


class OneLineParser(argparse.ArgumentParser):
    """What is wrong is one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise SetupError(f"{message}. See `python -m loadtest --help`.")


def command_line() -> argparse.ArgumentParser:
    """The options; those that replace a scenario's own value have no default."""
    rows = "\n".join(
        f"  {each.name:9} {each.summary} ({each.pattern}, {each.rate:g}/s, "
        f"{shown_s(each.duration_s)})"
        for each in SCENARIOS.values()
    )
    parser = OneLineParser(
        "python -m loadtest",
        description=f"Load a service with Locust, and judge it.\n\nScenarios:\n{rows}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("scenario", nargs="?", default="smoke", choices=SCENARIOS, metavar="SCENARIO")
    add("--url", help="the service to load; without one, a service is started")
    add("--key", default=os.environ.get(KEY), help=f"its API key, or {KEY} in the environment")
    add("--rate", type=rate, metavar="N", help="arrivals a second")
    add("--duration", type=seconds, metavar="TIME", help="such as 90s or 1h")
    add("--arrivals", choices=[*Pattern], help="how arrivals are spread")
    add("--images", type=Path, help="folder of images; without one, scenes are drawn")
    add("--seed", type=int, default=0, help="of the arrivals and their order")
    add("--timeout", type=seconds, default=120.0, metavar="TIME", help="for one arrival")
    add("--out", type=Path, help=f"folder for the report; one in {FOLDER} by default")
    for name in ("p50", "p95", "p99", "lag"):
        what = "how late the generator sends, p99" if name == "lag" else "latency"
        add(f"--max-{name}", type=bound_s, metavar="TIME", help=f"{what}; or none")
    add("--max-error-rate", type=bound, metavar="SHARE", help="failed, of all arrivals")
    add("--max-refused-rate", type=bound, metavar="SHARE", help="429, of all arrivals")
    add("--max-drift", type=bound, metavar="RATIO", help="median of the last tenth over the first")
    add("--processes", type=number, default=1, help="generators on this machine")
    add("--expect", type=number, help="be the master of so many workers elsewhere")
    add("--join", metavar="HOST[:PORT]", help="be a worker of that master")
    add("--bind", default="127.0.0.1", help="where a master listens")
    add("--port", type=number, default=5557, help="a master's port")
    add("--receiver", metavar="HOST:PORT", help="where the service reaches our webhook receiver")
    add("--haproxy", action="store_true", help="HAProxy in front of a service that is started")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting of it")
    return parser


def run_of(options: argparse.Namespace) -> ScenarioRun:
    """The scenario with what was given in the place of its own values."""
    row = SCENARIOS[options.scenario]
    given = {name: getattr(options, f"max_{name.removesuffix('_s')}") for name in THRESHOLDS}
    return ScenarioRun(
        scenario=row.name,
        url=(options.url or "").rstrip("/"),
        pattern=options.arrivals or row.pattern,
        rate=options.rate or row.rate,
        duration_s=options.duration or row.duration_s,
        images=options.images and options.images.resolve(),
        seed=options.seed,
        timeout_s=options.timeout,
        thresholds=replace(
            row.thresholds, **{name: each for name, each in given.items() if each is not None}
        ),
    )


def work(options: argparse.Namespace) -> bool:
    """Be a worker of the master elsewhere.

    Raises:
        SetupError: there is no key, or no load was made.
    """
    if not options.key:
        raise SetupError(f"--join needs a key: give --key, or set {KEY}")
    host, _, port = options.join.partition(":")
    arguments = ["--worker", "--exit-code-on-error", "0"]
    arguments += ["--master-host", host, "--master-port", port or str(options.port)]
    return locust(arguments, options.key, options.receiver)


def lead(run: ScenarioRun, options: argparse.Namespace) -> bool:
    """Make the load and write the report; whether every threshold was kept.

    Raises:
        SetupError: no load was made.
    """
    out = folder_of(run, options.out)
    receiver = receiver_of(run.row, options)
    with target(run.row, options, receiver) as (url, key, service):
        preflight(url, key)
        run = run.model_copy(update={"url": url})
        typer.echo(
            f"{run.scenario}: {run.row.summary}. {run.pattern}, {run.rate:g}/s for "
            f"{shown_s(run.duration_s)}, against {url}"
        )
        before = service and service.processes.cost()
        arguments = ["--headless", "--only-summary", "--run", run.model_dump_json()]
        arguments += ["--html", str(out / "report.html")]
        arguments += ["--csv", str(out / "figures"), *distribution(options)]
        is_kept = locust(arguments, key, receiver)
        if service and before:
            typer.echo(cost_of(before, service.processes.cost(), out))
    typer.echo(f"Report: {out / 'report.html'}")
    return is_kept


def folder_of(run: ScenarioRun, given: Path | None) -> Path:
    """The folder for the report, made.

    Raises:
        SetupError: it cannot be.
    """
    folder = given or FOLDER / f"{run.scenario}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--out {folder} cannot be made: {error.strerror}") from None
    return folder


def distribution(options: argparse.Namespace) -> list[str]:
    gather = ["--expect-workers-max-wait", str(GATHER_S)]
    if options.expect:
        where = ["--master-bind-host", options.bind, "--master-bind-port", str(options.port)]
        return ["--master", "--expect-workers", str(options.expect), *gather, *where]
    if options.processes == 1:
        return []
    port = str(free_port("127.0.0.1"))
    where = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    return ["--processes", str(options.processes), *gather, *where]


def locust(arguments: Sequence[str], key: str, receiver: str | None) -> bool:
    """Run Locust with our file; whether every threshold was kept.

    It patches the standard library when it is imported, so it has a process of its own.

    Raises:
        SetupError: no load was made; Locust has said why.
    """
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--loglevel", "WARNING"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {KEY: key, "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {RECEIVER: receiver} if receiver else {}
    done = subprocess.run([*command, *arguments], env=environment, check=False)
    if done.returncode not in VERDICTS:
        raise SetupError(f"no load was made (Locust's exit code {done.returncode})")
    return VERDICTS[done.returncode]


def receiver_of(row: Scenario, options: argparse.Namespace) -> str | None:
    """`host:port` for the webhook receiver of the first process here; None without webhooks."""
    if not row.needs_receiver or options.expect:
        return None
    return options.receiver or f"127.0.0.1:{free_port('127.0.0.1')}"


@contextmanager
def target(
    row: Scenario, options: argparse.Namespace, receiver: str | None
) -> Iterator[tuple[str, str, LocalService | None]]:
    """The URL and key of the service to load; without a URL, one that is started."""
    if options.url is not None:
        yield options.url, options.key or "", None
        return
    sets = [*options.set]
    if receiver:
        host, _, port = receiver.rpartition(":")
        allowed = [f"{host}:{int(port) + number}" for number in range(options.processes)]
        sets.insert(0, f"webhooks.allowed_hosts={allowed}")
    typer.echo("Starting a service …")
    with local_service(mixed_model(row), options.haproxy, sets) as service:
        yield service.url, service.key, service


def mixed_model(row: Scenario) -> Path | None:
    """A checkpoint whose answers have many lengths; the demo's (None) where none is needed."""
    if not row.needs_long_answers:
        return None
    from loadtest.bench.checkpoint import mixed_checkpoint  # needs torch

    return mixed_checkpoint()


def preflight(url: str, key: str) -> None:
    """Ask for a request that does not exist, which takes a key and costs next to nothing.

    Raises:
        SetupError: the service does not answer, refuses the key, or is another one.
    """
    asked = f"{url}/queue/{APP}/requests/{uuid4()}/status"
    headers = {"Authorization": f"Key {key}"}
    try:
        status = httpx2.get(asked, headers=headers, timeout=15, trust_env=False).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
        raise SetupError(
            f"no service answers at {url} ({str(error) or error.__class__.__name__}): "
            "start one, or leave --url out to have one started"
        ) from None
    if status in (401, 403):
        raise SetupError(f"{url} refuses the key ({status}): give another with --key")
    if status != 404:
        raise SetupError(f"{url} answers {status} where Florence Serve says 404: check --url")


def cost_of(before: Cost, after: Cost, out: Path) -> str:
    with (out / "figures_stats.csv").open() as file:
        [total] = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    num = max(1, int(total["Request Count"]) - int(total["Failure Count"]))
    model, other = (
        1000 * spent / num for spent in (after.inside_since(before), after.outside_since(before))
    )
    return f"CPU of the service for each good answer: {model:.1f} ms model, {other:.1f} ms all else"


def check(run: ScenarioRun, options: argparse.Namespace) -> None:
    """Find what is wrong before anything is started.

    Raises:
        SetupError: it says what to change.
    """
    if run.images is not None:
        images_in(run.images)
    if run.rate * run.duration_s > MOST_ARRIVALS:
        raise SetupError(
            f"{run.rate:g}/s for {run.duration_s:g} s are more than {MOST_ARRIVALS:,} "
            "arrivals: take a lower --rate or a shorter --duration"
        )
    if options.receiver is not None:
        host, _, port = options.receiver.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise SetupError(
                f"--receiver {options.receiver} is no HOST:PORT, such as 10.0.0.7:8090"
            )
    if options.url is None:
        if options.expect:
            raise SetupError("--expect needs --url: workers elsewhere cannot reach a local service")
    else:
        check_url(options.url, run.row, options)


def check_url(url: str, row: Scenario, options: argparse.Namespace) -> None:
    """Refuse what does not go with a service elsewhere.

    Raises:
        SetupError: something is missing, or is too much.
    """
    if options.haproxy or options.set:
        raise SetupError("--haproxy and --set are for a service that is started: leave --url out")
    if not options.key:
        raise SetupError(f"--url needs a key: give --key, or set {KEY}")
    host = urlsplit(url).hostname
    if urlsplit(url).scheme not in ("http", "https") or not host:
        raise SetupError(f"--url {url} is no URL, such as https://florence.example.com")
    if row.needs_receiver and not (options.receiver or options.expect or host in LOOPBACK):
        raise SetupError(
            "webhooks need --receiver HOST:PORT, where the service reaches this machine"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: a wrong argument or setup is one line and exit code 2."""
    raise_interrupts()
    try:
        options = command_line().parse_args(arguments)
        run = run_of(options)
        check(run, options)
        is_kept = work(options) if options.join else lead(run, options)
        sys.exit(0 if is_kept else 1)
    except SetupError as error:
        sys.stderr.write(f"loadtest: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
