"""What was asked for on the command line, as one value, and whether it makes sense."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.kit.arrivals import Pattern
from loadtest.kit.gallery import images_in
from loadtest.kit.plan import KEY, Plan
from loadtest.kit.scenarios import Bounds, Scenario

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_ARRIVALS = 5_000_000


@dataclass(frozen=True)
class Order:
    """A scenario with what was given in the place of its own values.

    `expect` workers come from elsewhere; with `join` this is one of them, of the master there.
    """

    scenario: Scenario
    url: str | None
    key: str | None
    pattern: Pattern
    rate: float
    duration_s: float
    images: Path | None
    seed: int
    timeout_s: float
    bounds: Bounds
    out: Path
    processes: int = 1
    expect: int | None = None
    join: str | None = None
    bind: str = "127.0.0.1"
    port: int = 5557
    receiver: str | None = None
    haproxy: bool = False
    sets: tuple[str, ...] = ()

    def plan(self, url: str) -> Plan:
        """The plan against the service at `url`."""
        return Plan(
            scenario=self.scenario.name,
            url=url,
            pattern=self.pattern,
            rate=self.rate,
            duration_s=self.duration_s,
            images=self.images and self.images.resolve(),
            seed=self.seed,
            timeout_s=self.timeout_s,
        )

    def receivers(self) -> list[str]:
        """`host:port` for the receiver of each process here; none where no webhook comes back."""
        if not self.scenario.needs_receiver or self.expect:
            return []
        if self.receiver is None:
            return [f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(self.processes)]
        host, _, port = self.receiver.rpartition(":")
        return [f"{host}:{int(port) + number}" for number in range(self.processes)]


def check(order: Order) -> None:
    """Find what is wrong before anything is started.

    Raises:
        SetupError: it says what to change.
    """
    if order.images is not None:
        images_in(order.images)
    if order.receiver is not None:
        check_address(order.receiver)
    check_size(order)
    if order.join is None:
        check_service(order)


def check_address(address: str) -> None:
    """Refuse what is no host:port.

    Raises:
        SetupError: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SetupError(f"--receiver {address} is no HOST:PORT, such as 10.0.0.7:8090")


def check_size(order: Order) -> None:
    """Refuse what no generator could hold.

    Raises:
        SetupError: too many arrivals.
    """
    if order.rate * order.duration_s > MOST_ARRIVALS:
        raise SetupError(
            f"{order.rate:g}/s for {order.duration_s:g} s are more than {MOST_ARRIVALS:,} "
            "arrivals: take a lower --rate or a shorter --duration"
        )


def check_service(order: Order) -> None:
    """Refuse what only a service elsewhere needs, or only one of our own.

    Raises:
        SetupError: something is missing, or is too much.
    """
    if order.url is None:
        if order.expect:
            raise SetupError("--expect needs --url: workers elsewhere cannot reach a local service")
        return
    if order.haproxy or order.sets:
        raise SetupError("--haproxy and --set are for a service of the kit's own: leave --url out")
    if not order.key:
        raise SetupError(f"--url needs a key: give --key, or set {KEY}")
    if urlsplit(order.url).scheme not in ("http", "https") or not urlsplit(order.url).hostname:
        raise SetupError(f"--url {order.url} is no URL, such as https://florence.example.com")
    is_near = urlsplit(order.url).hostname in LOOPBACK
    if order.scenario.needs_receiver and not (order.receiver or order.expect or is_near):
        raise SetupError(
            "webhooks need --receiver HOST:PORT, where the service reaches this machine"
        )
