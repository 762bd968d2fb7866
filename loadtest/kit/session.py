"""A run from its order to its report."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.kit import crew, local, preflight, tally
from loadtest.kit.amounts import shown_s
from loadtest.kit.analysis import Analysis
from loadtest.kit.document import Document, Spent
from loadtest.kit.job import Job, Role
from loadtest.kit.local import Service
from loadtest.kit.order import Order, check
from loadtest.kit.plan import KEY, Plan
from loadtest.kit.report import write
from loadtest.kit.thresholds import judge

RECORDS = "requests.jsonl"


def run(order: Order, console: Console) -> bool:
    """Make the load, write the report, print the summary; whether every threshold was kept.

    Raises:
        SetupError: something is wrong; no load was made.
        NotDriven: a generator ended early, and has said why.
    """
    check(order)
    if order.join is not None:
        join(order, order.join)
        return True
    make_folder(order)
    receivers = order.receivers()
    with place(order, receivers, console) as service:
        preflight.check(service.url, service.key)
        plan = order.plan(service.url)
        console.print(begun(order, plan), markup=False, highlight=False, soft_wrap=True)
        before = service.cost()
        crew.drive(*jobs(order, plan, receivers), service.key)
        spent = Spent.between(before, service.cost())
    return report(order, plan, spent, console)


def join(order: Order, master: str) -> None:
    """Be a worker of the master elsewhere.

    Raises:
        SetupError: there is no key.
        NotDriven: there is no master, or the share cannot be walked.
    """
    if not order.key:
        raise SetupError(f"--join needs a key: give --key, or set {KEY}")
    host, _, port = master.partition(":")
    job = Job(role=Role.WORKER, host=host, port=int(port or order.port), receiver=order.receiver)
    crew.drive(job, [], order.key)


def make_folder(order: Order) -> None:
    """Make the folder for the report.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        order.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--out {order.out} cannot be made: {error.strerror}") from None


@contextmanager
def place(order: Order, receivers: list[str], console: Console) -> Iterator[Service]:
    """The service that is loaded: the one at the URL, or one of our own."""
    if order.url is not None:
        yield Service(order.url.rstrip("/"), order.key or "")
        return
    own = local.service(order.scenario, receivers, order.haproxy, order.sets)
    with console.status("Starting a service …"):
        started = own.__enter__()
    try:
        yield started
    finally:
        own.__exit__(None, None, None)


def begun(order: Order, plan: Plan) -> str:
    """What is about to happen."""
    return (
        f"{plan.scenario}: {order.scenario.summary}. "
        f"{plan.pattern}, {plan.rate:g}/s for {shown_s(plan.duration_s)}, against {plan.url}"
    )


def jobs(order: Order, plan: Plan, receivers: list[str]) -> tuple[Job, list[Job]]:
    """The first process's job, and those of its workers on this machine."""
    out = order.out / RECORDS
    if order.expect:
        where = {"host": order.bind, "port": order.port, "num_workers": order.expect}
        return Job(role=Role.MASTER, plan=plan, out=out, **where), []
    addresses: list[str | None] = [*receivers] or [None] * order.processes
    if order.processes == 1:
        return Job(role=Role.ALONE, plan=plan, out=out, receiver=addresses[0]), []
    port = free_port("127.0.0.1")
    first = Job(role=Role.MASTER, plan=plan, out=out, port=port, num_workers=order.processes)
    return first, [Job(role=Role.WORKER, port=port, receiver=each) for each in addresses]


def report(order: Order, plan: Plan, spent: Spent | None, console: Console) -> bool:
    """Write the report and print its summary; whether every threshold was kept."""
    records, num_repeated = tally.read(order.out / RECORDS)
    analysis = Analysis(records, len(plan.arrivals()), plan.duration_s, num_repeated)
    verdicts = judge(analysis, order.bounds)
    summary = write(Document(plan, analysis, verdicts, spent), order.out)
    console.print(summary, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Report: {order.out / 'report.html'}", markup=False, highlight=False)
    return all(verdict.is_kept for verdict in verdicts)
