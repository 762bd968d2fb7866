"""`florence demo`: three random scenes, the boxes found in them against the truth."""

import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from deployments.cli.output import make_folder
from deployments.cli.serve import local_profile
from deployments.demo.scenes import Scene, draw_scene
from deployments.local.client import Client, data_uri_of
from deployments.local.launch import running
from deployments.local.state import State

TASK = "region-proposal"
SIZES = ((640, 480), (512, 512), (480, 640))
FOUND_AT = 0.5  # intersection over union
ENOUGH = 0.9  # of the true boxes

Box = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A true box, the found box that overlaps it most, and by how much."""

    truth: Box
    found: Box | None
    iou: float


@dataclass(frozen=True)
class Verdict:
    """A pair for each true box of a scene, and what was found where nothing is."""

    pairs: Sequence[Pair]
    strays: Sequence[Box] = ()


def show(seed: int | None, out: Path) -> int:
    """Run the demonstration; the exit code is 1 when too few true boxes are found.

    Raises:
        SetupError: the service cannot start, or `out` cannot be written.
    """
    console = Console()
    seed = random.randrange(1_000_000) if seed is None else seed
    scenes = [
        draw_scene(random.Random(f"{seed}/{number}"), size) for number, size in enumerate(SIZES)
    ]
    make_folder(out)
    console.print(
        f"Three random scenes, seed {seed} (florence demo --seed {seed} draws them again)"
    )
    with steps(console) as step, tempfile.TemporaryDirectory(prefix="florence-") as folder:
        step("Starting Ray and loading the model")
        state = State(Path(folder))
        profile = local_profile(state, "127.0.0.1", 0, {}, tls=False)
        with running(profile), Client(profile.base_url, state.api_key()) as client:
            verdicts = []
            for number, scene in enumerate(scenes, 1):
                step(f"Asking about scene {number} of {len(scenes)}")
                verdicts.append(ask(client, scene, number, out))
            step("Stopping")
    return report(console, verdicts, out)


@contextmanager
def steps(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows what is being done now: a spinner on a terminal, a line for each step elsewhere."""
    with console.status("…") as status:

        def step(text: str) -> None:
            status.update(f"{text} …")
            if not console.is_terminal:
                console.print(f"{text} …")

        yield step


def ask(client: Client, scene: Scene, number: int, out: Path) -> Verdict:
    """Send one scene; write it, the truth, the answer as it came, and the annotated picture."""
    truth = [box_of(thing.box) for thing in scene.objects]
    scene.image.save(out / f"scene-{number}.png")
    (out / f"truth-{number}.json").write_text(json.dumps({"bboxes": truth}) + "\n")
    body = client.run(TASK, data_uri_of(scene.image))
    (out / f"result-{number}.json").write_bytes(body)
    answer = json.loads(body)
    picture = Image.open(io.BytesIO(client.download(answer["image"]["url"])))
    picture.save(out / f"annotated-{number}.png")
    found = answer["results"]["bboxes"]
    pairs = matched(truth, found)
    used = [pair.found for pair in pairs]
    return Verdict(pairs, [box for box in found if box not in used])


def box_of(corners: tuple[float, float, float, float]) -> Box:
    """Corners (x1, y1, x2, y2) as a box in the API's words."""
    x1, y1, x2, y2 = corners
    return {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "label": ""}


def matched(truth: Sequence[Box], found: Sequence[Box]) -> list[Pair]:
    """Each true box with a found box of its own, the best overlaps first."""
    order = sorted(
        ((iou(t, f), i, j) for i, t in enumerate(truth) for j, f in enumerate(found)), reverse=True
    )
    partner: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for overlap, i, j in order:
        if overlap > 0 and i not in partner and j not in taken:
            partner[i] = j, overlap
            taken.add(j)
    return [
        Pair(box, found[partner[i][0]], partner[i][1]) if i in partner else Pair(box, None, 0.0)
        for i, box in enumerate(truth)
    ]


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one["x"] + one["w"], other["x"] + other["w"]) - max(one["x"], other["x"])
    height = min(one["y"] + one["h"], other["y"] + other["h"]) - max(one["y"], other["y"])
    common = max(0.0, width) * max(0.0, height)
    return float(common / (one["w"] * one["h"] + other["w"] * other["h"] - common))


def report(console: Console, verdicts: Sequence[Verdict], out: Path) -> int:
    """Print the table and what it comes to; 1 when too few were found."""
    console.print(table(verdicts))
    overlaps = [pair.iou for verdict in verdicts for pair in verdict.pairs]
    num_found = sum(overlap >= FOUND_AT for overlap in overlaps)
    num_strays = sum(len(verdict.strays) for verdict in verdicts)
    console.print(
        f"{num_found} of {len(overlaps)} true boxes found at IoU {FOUND_AT}, "
        f"mean IoU {sum(overlaps) / len(overlaps):.3f}, {num_strays} found where nothing is. "
        f"Pictures and answers are in {out}/"
    )
    return int(num_found < ENOUGH * len(overlaps))


def table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each true box, then for each stray."""
    shown = Table("scene", "truth", "found", "IoU", title="Boxes as x, y, w, h in pixels")
    for number, verdict in enumerate(verdicts, 1):
        for pair in verdict.pairs:
            colour = "green" if pair.iou >= FOUND_AT else "red"
            found = written(pair.found) if pair.found else "not found"
            shown.add_row(str(number), written(pair.truth), found, f"[{colour}]{pair.iou:.3f}[/]")
        for box in verdict.strays:
            shown.add_row(str(number), "nothing", written(box), "")
    return shown


def written(box: Box) -> str:
    """A box for a person."""
    return ", ".join(f"{box[side]:.0f}" for side in ("x", "y", "w", "h"))
