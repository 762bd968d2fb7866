"""The engine: sequences → tokens, in a batch that changes at every step.

A sequence goes through the encoder with a few others; then it takes a place of the decoder's
batch, and leaves it as soon as it has its last token.
On a GPU the host launches ahead and learns one step late which sequences are done: they do not
change meanwhile.
"""

import collections.abc
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from operator import ge

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deployments.florence.engine.batch import (
    BatchView,
    DecoderBatch,
    SequenceLimits,
    StepSize,
    aligned,
)
from deployments.florence.engine.cuda import CudaGraphs, HostCopy
from deployments.florence.engine.decoder import Decoder
from deployments.florence.engine.device import device_faults, is_out_of_memory
from deployments.florence.engine.low_rank import Adapters
from deployments.florence.engine.prefill import Encoded, Prefill
from deployments.florence.engine.search import BoxGrammar, GenerationRules, Search
from deployments.florence.sequence import LONGEST_NGRAM, Progress, Sequence, Sequences
from deployments.florence.token_scores import WINDOW, TokenScorer, TokenScores

Choices = NDArray[np.float32]
PROBE_TOKENS = 4
CPU_SPAN = 32  # positions by which the span of the attention grows on a CPU
CPU_PADDING = 64  # positions of padding that cost a CPU as much as one more group
GPU_PREFILLS = (1, 2, 4, 8, 16, 32)
GPU_SPANS = (64, 128, 256, 512, 1024, 2048, 4096)
GPU_BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class EngineConfig:
    """How much an engine holds and how it works; see the settings of the same names."""

    max_batch_size: int
    prefill_batch_size: int
    num_beams: int  # of a sequence that asks for none, and the most that one may ask for
    max_new_tokens: int
    max_text_tokens: int  # of a prompt, without the image's
    usual_prompt_tokens: int = 0  # of most prompts, with the image's: a GPU is quicker with these
    min_new_tokens: int = 0
    gpu_memory_utilization: float = 0.9
    launch_ahead: bool = False  # launch a step before the last one is known, as on a GPU
    cuda_graphs: bool = True  # record steps and prefills where there is a GPU


class Engine:
    """A `Backend` over a loaded Florence-2.

    With a `grammar`, sequences are held to theirs. `scorer` knows the location tokens.
    """

    def __init__(
        self,
        prefill: Prefill,
        decoder: Decoder,
        rules: GenerationRules,
        config: EngineConfig,
        batch: DecoderBatch,
        scorer: TokenScorer,
        grammar: BoxGrammar | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self._scorer = scorer
        self._adapters = adapters
        self._graphs = CudaGraphs(batch.device)
        self._prefill = prefill
        self._decoder = decoder
        self._search = Search(rules, batch, grammar)
        self._rules = rules
        self._config = config
        self._batch = batch
        self._encoded: deque[Encoded] = deque()  # what is with the encoder
        self._running: list[Sequence] = []  # in the order of the batch
        self._preempted: dict[Sequence, tuple[Tensor, ...]] = {}
        self._done: deque[tuple[list[Sequence], HostCopy]] = deque()  # which ended, of each step
        self._ended: deque[tuple[Sequence, HostCopy]] = deque()  # tokens on the way to the host

    @property
    def max_batch_size(self) -> int:
        return self._batch.shape.max_batch_size

    @property
    def prefill_batch_size(self) -> int:
        return self._config.prefill_batch_size

    @device_faults()
    @torch.inference_mode()
    def add(self, sequences: Sequences) -> None:
        """Send `sequences` to the encoder, after which they join the batch; resume the preempted.

        Raises:
            ValueError: one asks for more beams than there are, or for an adapter that is not here.
            MemoryError: the device has not enough for so many at a time.
            DeviceFault: the device has failed.
        """
        self._join(must=True)
        new = [sequence for sequence in sequences if sequence not in self._preempted]
        if new:
            self._encoded.append(self._encode(new))
        for sequence in sequences:
            if sequence in self._preempted:
                self._batch.copy_in(len(self._running), self._preempted.pop(sequence))
                self._running.append(sequence)

    @device_faults()
    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Give every sequence one more token; those that are known to have ended."""
        self._join(must=not self._running)
        if self._running:
            self._decode()
        while len(self._done) > self._lag():
            self._remove_done()
        return self._take_ended()

    def probe(self) -> None:
        """Encode the example, and write some tokens if nothing else runs."""
        example = replace(self._example, max_new_tokens=PROBE_TOKENS)
        self.add([example])
        is_alone = not (self._running or self._ended)
        while is_alone and example not in self.step():
            pass
        self.drop(example)

    @torch.inference_mode()
    def preempt(self, sequence: Sequence) -> bool:
        """Take a sequence out of the batch, with all it needs to resume; False if it cannot."""
        while self._done:  # one that has ended already must not be preempted
            self._remove_done()
        if sequence not in self._running:
            return False
        try:
            parts = self._batch.copy_out(self._running.index(sequence), sequence.length)
        except torch.OutOfMemoryError:
            return False
        self._preempted[sequence] = parts
        self._vacate(sequence)
        return True

    @torch.inference_mode()
    def drop(self, sequence: Sequence) -> None:
        self._preempted.pop(sequence, None)
        self._ended = deque(ended for ended in self._ended if ended[0] is not sequence)
        for encoded in self._encoded:
            encoded.drop(sequence)
        if sequence in self._running:
            self._vacate(sequence)

    @torch.inference_mode()
    def reset(self) -> None:
        for known in (self._encoded, self._done, self._ended, self._running, self._preempted):
            known.clear()
        self._batch.clear(slice(None))

    @torch.inference_mode()
    def progress(self, sequences: Sequences) -> dict[Sequence, Progress]:
        """The tokens that are certain so far: those that all beams have in common.

        Beams that have ended count: one of them may win. All are read from the device at once.
        """
        places = {each: index for index, each in enumerate(self._running)}
        known = [each for each in sequences if each in places]
        if not known:
            return {}
        batch, span = self._batch, max(each.length for each in known)
        rows = torch.tensor([places[each] for each in known], device=batch.device)
        tensors = [
            batch.length[rows],
            batch.tokens[rows, :, :span],
            batch.ended[rows],
            batch.ended_tokens[rows, :, :span],
        ]
        if any(each.scored for each in known):
            tensors.append(batch.choices[rows, :, :span])
        found = zip(known, *HostCopy(*tensors).read(), strict=True)
        return {each: self._certain(each, *parts) for each, *parts in found}

    def _certain(
        self,
        sequence: Sequence,
        length: Tensor,
        tokens: Tensor,
        ended: Tensor,
        ended_tokens: Tensor,
        choices: Tensor | None = None,
    ) -> Progress:
        """The progress of one, from what is known of it on the host."""
        num_beams, num_tokens = self._num_beams(sequence), int(length)
        over = ended_tokens[:num_beams][ended[:num_beams]]
        beams = torch.cat([tokens[:num_beams], over])[:, :num_tokens]
        common = int((beams == beams[0]).all(dim=0).int().cumprod(dim=0).sum())
        certain = tuple(beams[0, :common].tolist())
        if choices is None or not sequence.scored:
            return Progress(certain)
        windows = way_to(choices[:, :num_tokens].numpy(), 0, num_tokens)
        return Progress(certain, self._scorer(certain[1:], windows[: common - 1]))

    @torch.inference_mode()
    def warm_up(self, sequence: Sequence) -> None:
        """Do everything once, and record it on a GPU, so that no client waits for it.

        `sequence` is the example of `probe` from now on.
        """
        self._example = sequence
        most = self.prefill_batch_size
        if self._batch.device.type == "cuda" and self._config.cuda_graphs:
            sizes = {at_least(GPU_PREFILLS, n + 1, most) for n in range(most)}
            for size in sorted(sizes, reverse=True):
                self._prefill.record([sequence] * size)
            for step in self._sizes():
                self._graphs.record(step, partial(self._advance, step))
        if self._batch.device.type == "cpu" and most > 1:
            self._prefill.measure([sequence] * most)
            most = 1  # the encoder has seen the rest
        self.add([replace(sequence) for _ in range(most)])
        self.step()
        self.reset()

    def _encode(self, sequences: Sequences) -> Encoded:
        for sequence in sequences:
            sequence.length = 1
            if self._num_beams(sequence) > self._config.num_beams:
                most = self._config.num_beams
                raise ValueError(f"{sequence.num_beams} beams are asked for, there are {most}")
            if sequence.adapter and self._adapters is None:
                raise ValueError(f"adapter {sequence.adapter!r} is asked for, there is none")
        try:
            return self._prefill(sequences)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            raise MemoryError(f"no memory to encode {len(sequences)} images at a time") from error

    def _join(self, must: bool) -> None:
        """Give places to the sequences that the encoder has read; `must` waits for it."""
        while self._encoded and (must or self._encoded[0].is_done()):
            encoded = self._encoded[0]
            encoded.wait()
            limits = [self._limits(sequence) for sequence in encoded.sequences]
            first = len(self._running)
            self._batch.put(first, encoded.cross_kv, encoded.mask, limits, self._rules.start)
            self._running += encoded.sequences
            self._encoded.popleft()

    def _num_beams(self, sequence: Sequence) -> int:
        return sequence.num_beams or self._config.num_beams

    def _limits(self, sequence: Sequence) -> SequenceLimits:
        config = self._config
        most = min(sequence.max_new_tokens or config.max_new_tokens, config.max_new_tokens)
        least = min(config.min_new_tokens, most)
        num_beams, ngram = self._num_beams(sequence), self._ngram(sequence)
        adapter = self._adapters.number(sequence.adapter) if self._adapters else 0
        return SequenceLimits(num_beams, most + 1, least + 1, sequence.grammar, ngram, adapter)

    def _ngram(self, sequence: Sequence) -> int:
        asked = sequence.no_repeat_ngram_size
        return self._rules.ngram if asked is None else asked

    def _decode(self) -> None:
        size = self._size()
        self._graphs.run(size, partial(self._advance, size))
        done = HostCopy(self._batch.done[: len(self._running)])
        self._done.append((list(self._running), done))
        for sequence in self._running:
            sequence.length = min(sequence.length + 1, self._config.max_new_tokens + 1)

    def _advance(self, size: StepSize) -> None:
        view = BatchView(self._batch, size)
        with self._chosen(size.num_sequences):
            logits = self._decoder(self._batch, view)
        self._search(logits, view)

    def _chosen(self, num_sequences: int) -> AbstractContextManager[None]:
        """A pass in which so many of the batch's sequences have their adapters."""
        if self._adapters is None:
            return nullcontext()
        return self._adapters.chosen(self._batch.adapter[:num_sequences])

    def _size(self) -> StepSize:
        """What the next step is made for; ahead, the smallest recorded one that will do."""
        shape, running = self._batch.shape, self._running
        beams = shape.num_beams if any(self._num_beams(each) > 1 for each in running) else 1
        ngram = max(self._ngram(each) for each in running)
        scored = any(each.scored for each in running)
        encoded = aligned(max(len(each.prompt) for each in running))
        if self._config.launch_ahead:
            size = at_least(GPU_BATCHES, len(running), shape.max_batch_size)
            least = (ngram, scored, encoded)
            demands = next(each for each in self._demands() if all(map(ge, each, least)))
            span = self._gpu_span(max(each.length for each in running))
            return StepSize(size, beams, span, *demands)
        spans = [self._cpu_span(each.length) for each in running]
        demands = (ngram, scored, encoded)
        return StepSize(len(running), beams, max(spans), *demands, grouped(spans, CPU_PADDING))

    def _cpu_span(self, span: int) -> int:
        return min(-(-span // CPU_SPAN) * CPU_SPAN, self._batch.shape.num_positions)

    def _demands(self) -> list[tuple[int, bool, int]]:
        """What steps are recorded for, cheapest first: n-grams, scores, the encoder's positions.

        Scores alone make a step little dearer for all in it; what is seldom asked for shares one.
        """
        usual, longest = self._rules.ngram, max(LONGEST_NGRAM, self._rules.ngram)
        width, widest = self._usual_width(), self._batch.shape.num_encoded
        return [
            (usual, False, width),
            (usual, True, width),
            (usual, False, widest),
            (longest, True, widest),
        ]

    def _gpu_span(self, span: int) -> int:
        return at_least(GPU_SPANS, span, self._batch.shape.num_positions)

    def _usual_width(self) -> int:
        """The encoder's positions that a step on a GPU reads, unless a prompt has more."""
        usual = self._config.usual_prompt_tokens
        return aligned(usual) if usual else self._batch.shape.num_encoded

    def _sizes(self) -> list[StepSize]:
        """Every size that a step on a GPU can have, the largest first: others reuse its memory."""
        shape = self._batch.shape
        most = shape.max_batch_size
        sizes = {at_least(GPU_BATCHES, n + 1, most) for n in range(most)}
        spans = {self._gpu_span(n + 1) for n in range(shape.num_positions)}
        beams = {1, shape.num_beams}
        all_sizes = product(sizes, beams, spans, set(self._demands()))
        return sorted((StepSize(n, k, t, *d) for n, k, t, d in all_sizes), reverse=True)

    def _lag(self) -> int:
        """How many steps the host may stay behind: none when there is nothing left to launch."""
        return 1 if self._running and self._config.launch_ahead else 0

    def _remove_done(self) -> None:
        """Take the sequences that ended in a step out of the batch, and fetch their tokens."""
        sequences, done = self._done.popleft()
        for sequence, is_done in zip(sequences, done.read()[0].tolist(), strict=True):
            if is_done and sequence in self._running:
                self._ended.append((sequence, self._tokens(sequence)))
                self._vacate(sequence)

    def _tokens(self, sequence: Sequence) -> HostCopy:
        """The tokens of one that has ended, their number, whether its limit cut it, its choices."""
        batch, index, length = self._batch, self._running.index(sequence), sequence.length
        tensors = [
            batch.ended_tokens[index, 0, :length],
            batch.ended_length[index, 0],
            batch.ended_truncated[index, 0],
        ]
        if sequence.scored:
            tensors += [batch.choices[index, :, :length], batch.ended_choices[index, 0]]
        return HostCopy(*tensors)

    def _vacate(self, sequence: Sequence) -> None:
        """Free a place; the last sequence moves into it."""
        index = self._running.index(sequence)
        last = self._running.pop()
        if last is not sequence:
            self._batch.move(len(self._running), index, last.length)
            self._running[index] = last
        self._batch.clear(len(self._running))

    def _take_ended(self) -> list[Sequence]:
        """The sequences whose tokens are on the host; wait for them if nothing else runs."""
        found = []
        while self._ended and (not self._running or self._ended[0][1].is_done()):
            sequence, copies = self._ended.popleft()
            tokens, length, truncated, *choices = copies.read()
            sequence.tokens = tuple(tokens[: int(length)].tolist())
            sequence.truncated = bool(truncated)
            if choices:
                sequence.scores = self._scores(sequence, *choices)
            found.append(sequence)
        return found

    def _scores(self, sequence: Sequence, choices: Tensor, last: Tensor) -> TokenScores:
        """The scores of one that has ended; `last` is the choice of its last token."""
        before = way_to(choices.numpy(), int(last[-1]), len(sequence.tokens) - 1)
        windows = np.concatenate([before, last[None, :-1].numpy()])
        return self._scorer(sequence.tokens[1:], windows)


def grouped(spans: collections.abc.Sequence[int], padding: int) -> tuple[tuple[int, int], ...]:
    """Neighbours of like span: how many, and the largest span of each group.

    A group has less than `padding` positions that its sequences do not have.
    """
    groups: list[list[int]] = []
    for span in spans:
        if groups:
            joined = [*groups[-1], span]
            if len(joined) * max(joined) - sum(joined) < padding:
                groups[-1] = joined
                continue
        groups.append([span])
    return tuple((len(group), max(group)) for group in groups)


def way_to(choices: Choices, beam: int, length: int) -> Choices:
    """The log-probabilities about each token after the first of a `beam` of this `length`.

    A beam is followed back through the parents in `choices` (k, T, CHOICE): (length - 1, WINDOW).
    """
    found = np.empty((length - 1, WINDOW), np.float32)
    for place in range(length - 1, 0, -1):
        found[place - 1] = choices[beam, place, :-1]
        beam = int(choices[beam, place, -1])
    return found


def at_least(sizes: collections.abc.Sequence[int], wanted: int, most: int) -> int:
    """The smallest of `sizes` that holds `wanted`, but not more than `most`."""
    return min(next((size for size in sizes if size >= wanted), most), most)
