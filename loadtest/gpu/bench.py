"""All checks and measurements in their order."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import transformers
from transformers.utils import logging as transformers_logging

from deployments.florence.engine.engine import Engine
from loadtest.bench import figures
from loadtest.gpu import floor, parity, speed
from loadtest.gpu.floor import H200
from loadtest.gpu.model import LARGE, SMALL, BenchModel, ModelShape, imposed, random_model
from loadtest.gpu.report import Budget, PrintedReport, Row

PREFILL_BATCH_SIZE = 4  # the service's default
LEAST_OVERLAP = 0.98  # of boxes in half precision, IoU
GENERATE_STEP_S = 0.03  # a step of `generate` takes no longer on any current card
SLACK = 3.0  # how much longer than expected a measurement may take


@dataclass(frozen=True)
class Measurements:
    """What is measured, the most important first."""

    shape: ModelShape
    dtype: torch.dtype
    tokens: Sequence[int]
    batch_sizes: Sequence[int]
    contexts: Sequence[int]  # tokens so far, at which a step is timed
    steps: int  # of one timing
    prefill_batch_sizes: Sequence[int]
    batches: Sequence[int]  # of `generate`
    few: tuple[int, int]  # images and tokens that are compared in half precision


FULL = Measurements(
    shape=LARGE,
    dtype=torch.float16,
    tokens=(200, 50, 600),
    batch_sizes=(32, 64, 8, 1),
    contexts=(100, 400),
    steps=32,
    prefill_batch_sizes=(1, 4, 8),
    batches=(8, 1),
    few=(4, 64),
)
DRY = Measurements(
    shape=SMALL,
    dtype=torch.float32,
    tokens=(8, 4),
    batch_sizes=(2, 1),
    contexts=(4, 8),
    steps=2,
    prefill_batch_sizes=(1, 2),
    batches=(2, 1),
    few=(2, 8),
)


def has_gpu() -> bool:
    return torch.cuda.is_available()


def run(is_dry: bool, seconds: float) -> int:
    """Measure and write the figures; the exit status."""
    torch.set_num_threads(1)  # all that counts happens on the device
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = torch.device("cpu" if is_dry else "cuda")
    bench = GpuBench(DRY if is_dry else FULL, device, Budget(seconds))
    bench.run()
    file = figures.write("gpu-dry-run" if is_dry else "gpu", bench.report.values)
    bench.report.say(f"Figures: {file}")
    return 0 if bench.report.is_right else 1


class GpuBench:
    def __init__(self, plan: Measurements, device: torch.device, budget: Budget) -> None:
        self.report = PrintedReport()
        self._plan, self._device, self._budget = plan, device, budget
        self._work = floor.work(plan.shape, plan.dtype)
        self._cards = {"this card's": floor.measure(device, plan.dtype), "the H200's": H200}
        self._image_s = 0.0  # of the encoder
        self._step_s: dict[int, float] = {}  # of the decoder, by batch size
        self._generate: dict[tuple[int, int], float] = {}  # images/s, by tokens and batch

    def run(self) -> None:
        """All of it; of the large model as much as the time allows."""
        self._describe()
        self._check()
        large = random_model(self._plan.shape, self._device, self._plan.dtype)
        self._check_large(large)
        self._time_generate(large)
        self._time_prefill(large)
        engine = self._engine(large)
        self._time_steps(engine, large)
        self._time_answers(engine, large)
        skipped = self._budget.skipped
        self.report.keep("left out", skipped, "; ".join(skipped) or "nothing")

    def _describe(self) -> None:
        name = "CPU" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        about = f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"
        self.report.keep("device", about, about)
        self.report.values["work"] = asdict(self._work)
        for whose, card in self._cards.items():
            limits = f"{card.flops / 1e12:.3g} TFLOP/s, {card.bandwidth / 1e12:.3g} TB/s"
            self.report.keep(f"{whose} limits", asdict(card), limits)

    def _check(self) -> None:
        """The small model must give the same tokens, and the demo the same boxes."""
        for num_beams in (1, 3):
            share = parity.exact(self._device, num_beams)
            self.report.judge(f"equal answers, fp32, beams {num_beams}", str(share), share.is_whole)
        overlap = parity.boxes(self._device, self._plan.dtype)
        self.report.judge("least IoU of boxes", f"{overlap:.3f}", overlap >= LEAST_OVERLAP)

    def _check_large(self, large: BenchModel) -> None:
        is_finite = large.is_finite()
        self.report.judge("scores of the large model", "finite" if is_finite else "not", is_finite)
        near, graphs = parity.halves(large, *self._plan.few)
        self.report.keep("tokens equal to transformers'", str(near), str(near))
        self.report.judge("tokens equal without graphs", str(graphs), graphs.is_whole)

    def _time_generate(self, large: BenchModel) -> None:
        for num_tokens in self._plan.tokens:
            for batch in self._plan.batches:
                name = f"generate, {num_tokens} tokens, {batch} together"
                if self._budget.allows(name, num_tokens * GENERATE_STEP_S):
                    rate = speed.generate_images_per_s(large, batch, num_tokens)
                    self._generate[num_tokens, batch] = rate

    def _time_prefill(self, large: BenchModel) -> None:
        found = speed.prefill_ms(large, self._plan.prefill_batch_sizes)
        self._image_s = min(found.values()) / 1000
        least = {whose: 1000 * self._work.image_s(card) for whose, card in self._cards.items()}
        rows = [{"together": n, "ms an image": ms} | of_floor(least, ms) for n, ms in found.items()]
        self.report.table("Reading an image", rows)

    def _engine(self, large: BenchModel) -> Engine:
        plan = self._plan
        longest = max(*plan.tokens, max(plan.contexts) + plan.steps)
        most = max(plan.batch_sizes)
        return large.engine(imposed(1, longest, most, min(PREFILL_BATCH_SIZE, most)))

    def _time_steps(self, engine: Engine, large: BenchModel) -> None:
        plan, rows = self._plan, list[Row]()
        for batch_size in sorted(
            size for size in plan.batch_sizes if size <= engine.max_batch_size
        ):
            found = speed.step_ms(engine, large, batch_size, plan.contexts, plan.steps)
            self._step_s[batch_size] = max(found.values()) / 1000
            for context, ms in found.items():
                least = {
                    whose: 1000 * self._work.step_s(card, batch_size, context)
                    for whose, card in self._cards.items()
                }
                row: Row = {"batch": batch_size, "tokens so far": context, "ms a step": ms}
                rows.append(row | of_floor(least, ms))
        self.report.table("A step", rows)

    def _time_answers(self, engine: Engine, large: BenchModel) -> None:
        plan, rows = self._plan, list[Row]()
        for num_tokens in plan.tokens:
            for batch_size in plan.batch_sizes:
                rate = self._rate(engine, large, num_tokens, batch_size)
                if rate is not None:
                    rows.append(self._answers_row(num_tokens, batch_size, rate))
        rows.sort(key=lambda row: (row["tokens"], row["batch"]))
        self.report.table("Images with their answers, a second", rows)

    def _rate(
        self, engine: Engine, large: BenchModel, num_tokens: int, batch_size: int
    ) -> float | None:
        """Images a second; None where time or memory does not suffice."""
        name = f"{num_tokens} tokens, batch of {batch_size}"
        if batch_size not in self._step_s:
            self._budget.skipped.append(f"{name} (memory for {engine.max_batch_size})")
            return None
        wave_s = batch_size * self._image_s + num_tokens * self._step_s[batch_size]
        expected_s = speed.WAVES * wave_s
        if not self._budget.allows(name, expected_s):
            return None
        return speed.images_per_s(engine, large, batch_size, num_tokens, SLACK * expected_s)

    def _answers_row(self, num_tokens: int, batch_size: int, rate: float) -> Row:
        most = {
            f"of {whose} floor": rate / self._work.images_per_s(card, batch_size, num_tokens)
            for whose, card in self._cards.items()
        }
        generate = {
            f"generate, {batch} together": self._generate.get((num_tokens, batch))
            for batch in sorted(self._plan.batches)
        }
        return {"tokens": num_tokens, "batch": batch_size, "images/s": rate} | most | generate


def of_floor(least_ms: dict[str, float], ms: float) -> Row:
    """What part of the time is the least that it can be, by whose limits."""
    return {f"of {whose} floor": least / ms for whose, least in least_ms.items()}
