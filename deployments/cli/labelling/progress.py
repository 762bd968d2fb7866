"""How far a run is: a line that is kept up to date on a terminal, and one every 10 s elsewhere."""

import time

from rich.console import Console

EVERY_S = 10.0
NUM_NAMED = 3  # of the slowest, and of the failed
MIN_SUMMED_UP = 10  # questions; the answers to a few speak for themselves


class RunProgress:
    """Counts what becomes of `total` questions, and says so on standard error."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.answered = self.failed = self.skipped = self.copied = 0
        self._slowest: list[tuple[float, str]] = []
        self._failed: list[str] = []
        self._began = self._said = time.monotonic()
        self._console = Console(stderr=True)
        self._status = self._console.status("") if self._console.is_terminal else None

    def __enter__(self) -> "RunProgress":
        if self._status and self.total > 1:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def note(self, name: str, seconds: float, error: str) -> None:
        """An answer has come, or has failed."""
        if error:
            self.failed += 1
            self._failed.append(name)
        else:
            self.answered += 1
            self._slowest = sorted([*self._slowest, (seconds, name)], reverse=True)[:NUM_NAMED]
        self.show()

    def show(self) -> None:
        """Say how far it is, if it is time."""
        if self._status:
            self._status.update(self.line())
        elif time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """How many are done, how many a second, the time left, and failures."""
        done = self.answered + self.failed + self.skipped + self.copied
        rate = self._rate()
        left = (
            f", {duration((self.total - done) / rate)} left" if rate and done < self.total else ""
        )
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{done:,} of {self.total:,}, {rate:.1f}/s{left}{failed}"

    def summary(self) -> list[str]:
        """What came of it; nothing of a few questions without a failure."""
        if self.total < MIN_SUMMED_UP:
            return []
        took = duration(time.monotonic() - self._began)
        parts = [f"{self.answered:,} answered in {took} ({self._rate():.1f}/s)"]
        counts = {
            "failed": self.failed,
            "done before": self.skipped,
            "of the same content": self.copied,
        }
        parts += [f"{count:,} {what}" for what, count in counts.items() if count]
        lines = [f"{', '.join(parts)}."]
        if self._slowest:
            slow = ", ".join(f"{name} {seconds:.2f} s" for seconds, name in self._slowest)
            lines.append(f"Slowest: {slow}.")
        if self._failed:
            more = ", …" if len(self._failed) > NUM_NAMED else ""
            lines.append(f"Failed: {', '.join(self._failed[:NUM_NAMED])}{more}.")
        return lines

    def _rate(self) -> float:
        return (self.answered + self.failed) / max(1e-3, time.monotonic() - self._began)


def duration(seconds: float) -> str:
    """For people, in the two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
