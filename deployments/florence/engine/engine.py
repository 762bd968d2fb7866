"""The engine: queries → token ids, in a batch that changes at every step.

A query's image and prompt go through the encoder with a few others; then it takes a row of the
decoder's batch, and leaves it as soon as it has its last token.
On a GPU the host launches ahead and learns one step late which rows are done: they stay as
they are meanwhile.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deployments.florence.backend import Job
from deployments.florence.engine.decoder import Decoder
from deployments.florence.engine.grammar import Boxes
from deployments.florence.engine.graphs import Graphs
from deployments.florence.engine.prefill import Encoded, Prefill
from deployments.florence.engine.rows import Limits, Rows, View
from deployments.florence.engine.search import Rules, Search
from deployments.florence.engine.transfer import Transfer
from deployments.florence.request import Query, Tokens

Finished = list[tuple[Job[Query], Tokens]]

CPU_SPAN = 32  # positions by which the reach of the attention grows on a CPU
GPU_BATCHES = (1, 2, 4, 8, 16, 32)
GPU_SPANS = (64, 128, 256, 512, 1024, 2048, 4096)
GPU_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Options:
    """How the engine works.

    `num_beams` are those of a query that asks for none and the most that one may ask for;
    `micro_batch` is how many go to the encoder together; lengths are counted in new tokens.
    `ahead` lets the host launch a step before it knows how the last one ended, in the sizes that
    are recorded, as `build` does on a GPU; without `graphs` nothing is recorded.
    """

    num_beams: int
    max_new_tokens: int
    min_new_tokens: int = 0
    micro_batch: int = 4
    ahead: bool = False
    graphs: bool = True


@dataclass(eq=False)
class Live:
    """A sequence under way: whose it is, its beams, and the most tokens it can have by now."""

    job: Job[Query]
    num_beams: int
    length: int = 1


@dataclass
class Parked:
    """A sequence that has given up its row for a while, and what was in it."""

    live: Live
    parts: tuple[Tensor, ...]


@dataclass
class Arrival:
    """Sequences that are with the encoder."""

    rows: list[Live]
    encoded: Encoded


@dataclass
class Ending:
    """What the device says of its rows after a step, on the way to the host."""

    rows: list[Live]
    done: Transfer


@dataclass
class Answer:
    """A sequence that has ended, on its way to the host: its tokens and their number."""

    job: Job[Query]
    tokens: Transfer


class Engine:
    """A `Backend` over a loaded Florence-2; `rows` has room for all that is under way.

    With a `grammar`, queries are held to theirs.
    """

    def __init__(
        self,
        prefill: Prefill,
        decoder: Decoder,
        rules: Rules,
        options: Options,
        rows: Rows,
        grammar: Boxes | None = None,
    ) -> None:
        self._graphs = Graphs(rows.device)
        self._prefill = prefill
        self._decoder = decoder
        self._search = Search(rules, rows, grammar)
        self._rules = rules
        self._options = options
        self._rows = rows
        self._arrivals: deque[Arrival] = deque()
        self._live: list[Live] = []
        self._parked: dict[Job[Query], Parked] = {}
        self._endings: deque[Ending] = deque()
        self._answers: deque[Answer] = deque()

    @property
    def num_slots(self) -> int:
        """Most sequences at a time."""
        return self._rows.shape.num_rows

    @property
    def micro_batch(self) -> int:
        """Most sequences that go to the encoder together."""
        return self._options.micro_batch

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Job[Query]]) -> None:
        """Send `jobs` to the encoder; they join the decoder's batch when it has read them.

        Raises:
            ValueError: one asks for more beams than there are.
            MemoryError: the device has not enough for so many at a time.
        """
        self._join(must=True)
        new = [job for job in jobs if job not in self._parked]
        if new:
            self._arrivals.append(self._encode(new))
        for job in jobs:
            if job in self._parked:
                self._resume(self._parked.pop(job))

    def _encode(self, jobs: Sequence[Job[Query]]) -> Arrival:
        rows = [Live(job, self._num_beams(job.item)) for job in jobs]
        try:
            encoded = self._prefill([job.item for job in jobs])
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(f"no memory to encode {len(jobs)} images at a time") from error
        return Arrival(rows, encoded)

    @torch.inference_mode()
    def step(self) -> Finished:
        """Give every sequence one more token; those that are known to have ended."""
        self._join(must=not self._live)
        if self._live:
            self._decode()
        while len(self._endings) > self._lag():
            self._leave(self._endings.popleft())
        return self._finished()

    @torch.inference_mode()
    def suspend(self, job: Job[Query]) -> bool:
        """Take a sequence out of the batch, with all it needs to go on; False if it has no row."""
        while self._endings:  # one that has ended already must not be parked
            self._leave(self._endings.popleft())
        live = next((live for live in self._live if live.job is job), None)
        if live is None:
            return False
        try:
            parts = self._rows.copy_out(self._live.index(live), live.length)
        except torch.OutOfMemoryError:
            return False
        self._parked[job] = Parked(live, parts)
        self._vacate(live)
        return True

    @torch.inference_mode()
    def drop(self, job: Job[Query]) -> None:
        """Forget a job, wherever it is."""
        self._parked.pop(job, None)
        self._answers = deque(answer for answer in self._answers if answer.job is not job)
        for arrival in self._arrivals:
            self._withdraw(arrival, job)
        for live in self._live:
            if live.job is job:
                self._vacate(live)
                return

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget every job."""
        for waiting in (self._arrivals, self._endings, self._answers, self._live, self._parked):
            waiting.clear()
        self._rows.clear(slice(None))

    @torch.inference_mode()
    def progress(self, job: Job[Query]) -> Tokens | None:
        """The tokens that a job has for certain so far: those that its beams have in common.

        Beams that have ended count: one of them may win.
        """
        number = next((n for n, live in enumerate(self._live) if live.job is job), None)
        if number is None:
            return None
        rows, num_beams = self._rows, self._live[number].num_beams
        ended = rows.ended_tokens[number, :num_beams][rows.ended[number, :num_beams]]
        beams = torch.cat([rows.tokens[number, :num_beams], ended])[:, : int(rows.length[number])]
        common = (beams == beams[0]).all(dim=0).int().cumprod(dim=0).sum()
        return tuple(beams[0, : int(common)].tolist())

    @torch.inference_mode()
    def warm_up(self, query: Query) -> None:
        """Do everything once, and record it on a GPU, so that no client waits for it."""
        if self._rows.device.type == "cuda" and self._options.graphs:
            self._record(query)
        self.admit([Job(query) for _ in range(self.micro_batch)])
        self.step()
        self.reset()

    def _record(self, query: Query) -> None:
        most = self.micro_batch
        sizes = {at_least(GPU_BATCHES, n + 1, most) for n in range(most)}
        for size in sorted(sizes, reverse=True):
            self._prefill.record([query] * size)
        for key in self._sizes():
            self._graphs.record(key, partial(self._advance, *key))

    def _join(self, must: bool) -> None:
        """Give rows to the sequences that the encoder has read; `must` waits for it."""
        while self._arrivals and (must or self._arrivals[0].encoded.is_done()):
            arrival = self._arrivals.popleft()
            encoded = arrival.encoded
            encoded.wait()
            limits = [self._limits(live) for live in arrival.rows]
            first = len(self._live)
            self._rows.put(first, encoded.cross, encoded.mask, limits, self._rules.start)
            self._live += arrival.rows

    def _resume(self, parked: Parked) -> None:
        """Give a suspended sequence a row again."""
        self._rows.copy_in(len(self._live), parked.parts)
        self._live.append(parked.live)

    def _num_beams(self, query: Query) -> int:
        most = self._options.num_beams
        if query.num_beams is not None and query.num_beams > most:
            raise ValueError(f"{query.num_beams} beams are asked for, there are {most}")
        return query.num_beams or most

    def _limits(self, live: Live) -> Limits:
        query, options = live.job.item, self._options
        most = min(query.max_new_tokens or options.max_new_tokens, options.max_new_tokens)
        least = min(options.min_new_tokens, most)
        return Limits(live.num_beams, most + 1, least + 1, query.grammar)

    def _decode(self) -> None:
        """One step of all rows."""
        size = self._size()
        self._graphs.run(size, partial(self._advance, *size))
        done = Transfer(self._rows.done[: len(self._live)])
        self._endings.append(Ending(list(self._live), done))
        for live in self._live:
            live.length = min(live.length + 1, self._options.max_new_tokens + 1)

    def _advance(self, num_rows: int, num_lanes: int, span: int) -> None:
        view = View(self._rows, num_rows, num_lanes, span)
        self._search(self._decoder(self._rows, view), view)

    def _size(self) -> tuple[int, int, int]:
        """The rows, lanes and positions of the next step; ahead, those of a recording."""
        shape = self._rows.shape
        lanes = shape.num_lanes if any(live.num_beams > 1 for live in self._live) else 1
        rows, span = len(self._live), max(live.length for live in self._live)
        if self._options.ahead:
            return at_least(GPU_ROWS, rows, shape.num_rows), lanes, self._gpu_span(span)
        return rows, lanes, min(-(-span // CPU_SPAN) * CPU_SPAN, shape.num_positions)

    def _gpu_span(self, span: int) -> int:
        return at_least(GPU_SPANS, span, self._rows.shape.num_positions)

    def _sizes(self) -> list[tuple[int, int, int]]:
        """Every size that a step on a GPU can have, the largest first: others reuse its memory."""
        shape = self._rows.shape
        rows = {at_least(GPU_ROWS, n + 1, shape.num_rows) for n in range(shape.num_rows)}
        spans = {self._gpu_span(n + 1) for n in range(shape.num_positions)}
        lanes = {1, shape.num_lanes}
        return sorted(((n, k, t) for n in rows for k in lanes for t in spans), reverse=True)

    def _lag(self) -> int:
        """How many steps the host may stay behind: none when there is nothing left to launch."""
        return 1 if self._live and self._options.ahead else 0

    def _leave(self, ending: Ending) -> None:
        """Take the sequences that have ended out of the batch, and fetch their tokens."""
        for live, done in zip(ending.rows, ending.done.read()[0].tolist(), strict=True):
            if done and live in self._live:
                self._answers.append(Answer(live.job, self._tokens(live)))
                self._vacate(live)

    def _tokens(self, live: Live) -> Transfer:
        rows, number = self._rows, self._live.index(live)
        return Transfer(rows.ended_tokens[number, 0, : live.length], rows.ended_length[number, 0])

    def _vacate(self, live: Live) -> None:
        """Free a row; the last one moves into it."""
        number = self._live.index(live)
        last = self._live.pop()
        if last is not live:
            self._rows.move(len(self._live), number, last.length)
            self._live[number] = last
        self._rows.clear(len(self._live))

    def _withdraw(self, arrival: Arrival, job: Job[Query]) -> None:
        """Take a job out of those that are with the encoder, which goes on for the others."""
        kept = [number for number, live in enumerate(arrival.rows) if live.job is not job]
        if len(kept) < len(arrival.rows):
            arrival.rows = [arrival.rows[number] for number in kept]
            arrival.encoded = arrival.encoded.only(kept)

    def _finished(self) -> Finished:
        """The answers that have reached the host; with nothing left to do, it waits for them."""
        found: Finished = []
        while self._answers and (not self._live or self._answers[0].tokens.arrived()):
            answer = self._answers.popleft()
            tokens, length = answer.tokens.read()
            found.append((answer.job, tuple(tokens[: int(length)].tolist())))
        return found


def at_least(sizes: Sequence[int], wanted: int, most: int) -> int:
    """The smallest of `sizes` that holds `wanted`, but not more than `most`."""
    return min(next((size for size in sizes if size >= wanted), most), most)
