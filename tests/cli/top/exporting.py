"""Texts as exporters write them."""

from collections.abc import Mapping

from deployments.cli.top.exposition import Scrape, scrape
from deployments.cli.top.window import Window
from deployments.telemetry.metrics import METRICS, PrometheusRecorder, Recorder

RAYS_OWN = """# HELP ray_node_cpu_count Processors of a node
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count{SessionName="s"} 2.0
"""


def text_of(recorder: PrometheusRecorder, *, by_ray: bool = False, worker: str = "w") -> str:
    """What a recorder has, as the Ingress says it or as Ray's exporter does."""
    text = recorder.exposition().decode()
    if not by_ray:
        return text
    for name in METRICS:
        plain = name.removesuffix("_total")
        text = text.replace(f"\n{plain}", f"\nray_{plain}").replace(f" {plain}", f" ray_{plain}")
    lines = text.splitlines()
    return RAYS_OWN + "\n".join(labelled(line, worker) for line in lines) + "\n"


def labelled(line: str, worker: str) -> str:
    """A sample with the label that Ray tells processes apart by."""
    if line.startswith("#"):
        return line
    name, _, rest = line.partition(" ")
    if name.endswith("}"):
        return f'{name[:-1]},WorkerId="{worker}"}} {rest}'
    return f'{name}{{WorkerId="{worker}"}} {rest}'


def said(at: float, *texts: str) -> Scrape:
    """Exporters `a`, `b`, … that said this at the same moment."""
    return scrape(at, dict(zip("abcdef", texts, strict=False)))


def window(before: Mapping[str, str], after: Mapping[str, str], seconds: float = 10.0) -> Window:
    """What sources said, and what they said some seconds later."""
    return Window(scrape(100.0, before), scrape(100.0 + seconds, after))


class Service:
    """A recorder for the tests of rates: what is recorded after `mark` is new."""

    def __init__(self, *, by_ray: bool = False) -> None:
        self._recorder = PrometheusRecorder()
        self._by_ray = by_ray
        self.mark()

    @property
    def record(self) -> Recorder:
        """Where to record."""
        return self._recorder

    def mark(self) -> None:
        """The first look."""
        self._before = text_of(self._recorder, by_ray=self._by_ray)

    def seen(self, seconds: float = 10.0) -> Window:
        """What has happened since."""
        after = text_of(self._recorder, by_ray=self._by_ray)
        return window({"a": self._before}, {"a": after}, seconds)
