"""`florence demo`: three random scenes, the boxes found in them against the truth."""

import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from deployments.cli.options import make_folder
from deployments.demo.scenes import Scene, draw_scene
from deployments.demo.scoring import ApiBox, SceneScore, box_of, score_boxes
from deployments.local.client import ServiceClient, data_uri_of
from deployments.local.config import local_profile
from deployments.local.launch import launch
from deployments.local.state import StateFolder

TASK = "region-proposal"
SIZES = ((640, 480), (512, 512), (480, 640))
FOUND_AT = 0.5  # intersection over union
ENOUGH = 0.9  # of the true boxes

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    seed: Annotated[
        int | None, typer.Option(help="Seed of the scenes.", show_default="random")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for scenes, pictures and answers.")] = Path(
        "out/demo"
    ),
) -> None:
    """Find the shapes in three random scenes, and show how well.

    Starts a service of its own. The exit code is 1 when too few shapes are found.
    """
    raise typer.Exit(run_demo(seed, out))


def run_demo(seed: int | None, out: Path) -> int:
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
        state = StateFolder(Path(folder))
        profile = local_profile(state, "127.0.0.1", 0, {}, tls=False)
        with launch(profile), ServiceClient(profile.base_url, state.api_key()) as client:
            scores = []
            for number, scene in enumerate(scenes, 1):
                step(f"Asking about scene {number} of {len(scenes)}")
                scores.append(ask(client, scene, number, out))
            step("Stopping")
    return report(console, scores, out)


@contextmanager
def steps(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows what is being done now: a spinner on a terminal, a line for each step elsewhere."""
    with console.status("…") as status:

        def step(text: str) -> None:
            status.update(f"{text} …")
            if not console.is_terminal:
                console.print(f"{text} …")

        yield step


def ask(client: ServiceClient, scene: Scene, number: int, out: Path) -> SceneScore:
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
    return score_boxes(truth, found)


def report(console: Console, scores: Sequence[SceneScore], out: Path) -> int:
    """Print the table and what it comes to; 1 when too few were found."""
    console.print(table(scores))
    overlaps = [match.iou for score in scores for match in score.matches]
    num_found = sum(overlap >= FOUND_AT for overlap in overlaps)
    num_strays = sum(len(score.strays) for score in scores)
    console.print(
        f"{num_found} of {len(overlaps)} true boxes found at IoU {FOUND_AT}, "
        f"mean IoU {sum(overlaps) / len(overlaps):.3f}, {num_strays} found where nothing is. "
        f"Pictures and answers are in {out}/"
    )
    return int(num_found < ENOUGH * len(overlaps))


def table(scores: Sequence[SceneScore]) -> Table:
    """A row for each true box, then for each stray."""
    shown = Table("scene", "truth", "found", "IoU", title="Boxes as x, y, w, h in pixels")
    for number, score in enumerate(scores, 1):
        for match in score.matches:
            colour = "green" if match.iou >= FOUND_AT else "red"
            found = written(match.found) if match.found else "not found"
            shown.add_row(str(number), written(match.truth), found, f"[{colour}]{match.iou:.3f}[/]")
        for box in score.strays:
            shown.add_row(str(number), "nothing", written(box), "")
    return shown


def written(box: ApiBox) -> str:
    return ", ".join(f"{box[side]:.0f}" for side in ("x", "y", "w", "h"))
