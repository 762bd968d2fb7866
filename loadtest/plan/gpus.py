"""GPUs: what they can do at most, what that makes of Florence-2-large, and what an hour costs.

NOT MEASURED. A speed is worked out from the card's data sheet by one rule:

- the encoder's 1.716 TFLOP an image (counted) at 32 % of the tensor cores' dense float16 peak;
- a step reads 458 MB of weights, and for each row 29 MB of keys and values of the image and 49 kB
  for each of about 200 tokens (counted), at 90 % of the memory's peak; rows at 1.5 times that, and
  144 µs of launching, kernels too small to fill the card, and the choice of tokens on top;
- a fifth more for the checkpoint's own three beams.

On an H200 that is what was expected of the engine before it was written: 5.4 ms an image, and
0.25 ms and 14 µs a row for a greedy step. `--calibrate`, `--step-ms` and `--prefill-ms` replace it.
"""

from dataclasses import dataclass

from deployments.errors import SetupError
from loadtest.plan.speed import Curve, Speed

ENCODER_TFLOP = 1.716
COMPUTE_SHARE = 0.32
WEIGHTS_GB = 0.458
ROW_GB = 0.029 + 200 * 49e-6
MEMORY_SHARE = 0.9
ROW_FACTOR = 1.5
LAUNCH_S = 144e-6
BEAMS_FACTOR = 1.2

AWS_BLOCKS = "AWS capacity blocks, per GPU, January 2025"


@dataclass(frozen=True)
class Gpu:
    """A card: dense float16 TFLOP/s and GB/s of its data sheet, and US dollars for an hour.

    A price is an example of one cloud, in one region, on one day: `--price` is yours.
    """

    name: str
    tflops: float
    gb_per_s: float
    price: float
    priced: str

    @property
    def speed(self) -> Speed:
        """Florence-2-large in float16 with three beams, estimated."""
        bytes_s = 1 / (MEMORY_SHARE * self.gb_per_s)
        base_s = LAUNCH_S + WEIGHTS_GB * bytes_s
        row_s = ROW_FACTOR * ROW_GB * bytes_s
        image_s = ENCODER_TFLOP / (COMPUTE_SHARE * self.tflops)
        step = Curve.straight(BEAMS_FACTOR * base_s, BEAMS_FACTOR * row_s)
        return Speed(step, Curve.straight(0.0, image_s))


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("l4", 121, 300, 0.805, "AWS g6.xlarge with its node, list price, not looked up again"),
        Gpu("a10g", 70, 600, 1.006, "AWS g5.xlarge with its node, us-east-1, June 2026"),
        Gpu(
            "l40s", 362, 864, 1.861, "AWS g6e.xlarge with its node, list price, not looked up again"
        ),
        Gpu("a100-40gb", 312, 1555, 1.844, AWS_BLOCKS),
        Gpu("h100", 989, 3350, 4.916, AWS_BLOCKS),
        Gpu("h200", 989, 4800, 5.408, AWS_BLOCKS),
    )
}


def gpu_named(name: str) -> Gpu:
    """A card of the table.

    Raises:
        SetupError: it is not there.
    """
    found = GPUS.get(name.lower())
    if found is None:
        raise SetupError(
            f"--gpu {name}: known are {', '.join(GPUS)}; for another give --step-ms, "
            "--prefill-ms and --price"
        )
    return found
