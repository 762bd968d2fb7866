"""`florence demo`: three random scenes and their boxes, and one that is asked for everything else.

What is found stands beside the truth.
"""

import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.cli.options import make_folder
from deployments.cli.predictions import NOTHING
from deployments.demo.scenes import Scene, draw_mixed_scene, draw_scene
from deployments.demo.scoring import ApiBox, SceneScore, box_of, score_boxes
from deployments.demo.training.tasks import detailed_caption
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
    """Find, read and outline things in random scenes.

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
    mixed = scene_with_words(random.Random(f"{seed}/mixed"))
    make_folder(out)
    console.print(f"Four random scenes, seed {seed} (florence demo --seed {seed} draws them again)")
    with steps(console) as step, tempfile.TemporaryDirectory(prefix="florence-") as folder:
        step("Starting Ray and loading the model")
        state = StateFolder(Path(folder))
        profile = local_profile(state, "127.0.0.1", 0, {}, tls=False)
        with launch(profile), ServiceClient(profile.base_url, state.api_key()) as client:
            scores = []
            for number, scene in enumerate(scenes, 1):
                step(f"Asking about scene {number} of {len(scenes)}")
                scores.append(ask(client, scene, number, out))
            step("Asking for words, outlines and a caption")
            answers = ask_for_all(client, mixed, out)
            step("Stopping")
    console.print(kinds_table(answers))
    return report(console, scores, out)


def scene_with_words(rng: random.Random) -> Scene:
    """A scene that every kind of question can be asked about."""
    while True:
        scene = draw_mixed_scene(rng, SIZES[0])
        if scene.objects and scene.words:
            return scene


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
    answer = ask_task(client, TASK, data_uri_of(scene.image), str(number), out)
    return score_boxes(truth, answer["results"]["bboxes"])


def ask_for_all(client: ServiceClient, scene: Scene, out: Path) -> list[tuple[str, str, str]]:
    """Ask a scene of shapes and words for quads, polygons and text: task, truth, answer."""
    scene.image.save(out / "scene-4.png")
    image, thing = data_uri_of(scene.image), scene.objects[0]
    phrase = f"{thing.colour} {thing.shape}"
    read = ask_task(client, "ocr-with-region", image, "4-ocr-with-region", out)
    outlined = ask_task(
        client, "referring-expression-segmentation", image, "4-segmentation", out, text_input=phrase
    )
    told = ask_task(client, "detailed-caption", image, "4-caption", out)
    words = ", ".join(quad["label"] for quad in read["results"]["quad_boxes"]) or NOTHING
    parts = (
        ", ".join(f"{len(p['points'])} points" for p in outlined["results"]["polygons"]) or NOTHING
    )
    return [
        ("ocr-with-region", ", ".join(word.text for word in scene.words), words),
        (f"segmentation of “{phrase}”", f"{len(thing.outline)} points", parts),
        ("detailed-caption", detailed_caption(scene), told["results"]),
    ]


def ask_task(
    client: ServiceClient, task: str, image_url: str, name: str, out: Path, **fields: str
) -> dict[str, Any]:
    """Ask one task; write the answer as it came, and its picture where it has one."""
    body = client.run(task, image_url, **fields)
    (out / f"result-{name}.json").write_bytes(body)
    answer: dict[str, Any] = json.loads(body)
    if "image" in answer:
        picture = Image.open(io.BytesIO(client.download(answer["image"]["url"])))
        picture.save(out / f"annotated-{name}.png")
    return answer


def kinds_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """A row for each question about the fourth scene."""
    shown = Table("task", "truth", "answer", title="A scene of shapes and words")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


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
