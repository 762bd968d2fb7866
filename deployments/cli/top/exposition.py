"""What exporters say at one moment: our metrics out of Prometheus' text format."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

RAY = "ray_"  # what Ray puts before our names
OURS = ("florence_", f"{RAY}florence_")
COMMENTS = ("# HELP ", "# TYPE ")

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]  # a sample's name, without Ray's prefix, and its labels in order
Values = dict[Series, float]


class NoExposition(ValueError):
    """The text is not what an exporter says."""


@dataclass(frozen=True)
class Scrape:
    """What each source said, `at` seconds on a clock that never goes back."""

    at: float
    sources: Mapping[str, Values]

    def series(self) -> Iterator[tuple[str, Series, float]]:
        """Every sample with its source."""
        for source, values in self.sources.items():
            for series, value in values.items():
                yield source, series, value


def scrape(at: float, texts: Mapping[str, str]) -> Scrape:
    """What the sources said, each metric once: Ray's export goes before the Ingress's own page.

    Raises:
        NoExposition: one of the texts is something else; the message says which.
    """
    read = {source: samples(text, source) for source, text in texts.items()}
    by_ray = {name for values in read.values() for name, _ in values if name.startswith(RAY)}
    return Scrape(
        at,
        {
            source: {
                (name.removeprefix(RAY), labels): value
                for (name, labels), value in values.items()
                if RAY + name not in by_ray
            }
            for source, values in read.items()
        },
    )


def samples(text: str, source: str) -> Values:
    """Our samples in `text`; the thousands of others are passed over, as parsing takes its time.

    Raises:
        NoExposition: there is no metric in it at all.
    """
    if "# TYPE " not in text:
        raise NoExposition(source)
    lines = (line for line in text.splitlines() if is_ours(line))
    try:
        families = list(text_string_to_metric_families("\n".join([*lines, ""])))
    except ValueError:
        raise NoExposition(source) from None
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


def is_ours(line: str) -> bool:
    """Whether a line is about one of our metrics."""
    for comment in COMMENTS:
        line = line.removeprefix(comment)
    return line.startswith(OURS)
