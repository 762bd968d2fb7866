"""`florence plan`: the replicas that a load would bring, its waiting times, and its cost."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments.cli.options import Json

WHO, MODEL = "Load", "Model and machine"
SCALING, SHOWN = "Scaling, else as deployed", "Output"


def plan(
    rate: Annotated[
        float, typer.Option(min=0, help="Requests a second.", rich_help_panel=WHO)
    ] = 1.0,
    arrivals: Annotated[
        str,
        typer.Option(
            help="even, random (Poisson), or daily: --rate at night, --peak by day.",
            rich_help_panel=WHO,
        ),
    ] = "random",
    peak: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The day's highest rate.",
            show_default="4 times --rate",
            rich_help_panel=WHO,
        ),
    ] = None,
    duration: Annotated[
        str, typer.Option(help="For how long: 90, 15m, 1h, 1d.", rich_help_panel=WHO)
    ] = "1h",
    burst: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE@WHEN",
            help="So many requests at once into the queue; may be repeated.",
            rich_help_panel=WHO,
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Arrivals instead of --rate: CSV rows of seconds[,tokens[,queued]].",
            rich_help_panel=WHO,
        ),
    ] = None,
    queued: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share that comes through the queue.", rich_help_panel=WHO),
    ] = 1.0,
    tokens: Annotated[
        str,
        typer.Option(
            help="Length of answers: 40, 60:0.8 (lognormal), a task, or a mix: "
            "region-proposal=0.6,caption=0.4.",
            rich_help_panel=WHO,
        ),
    ] = "region-proposal",
    gpu: Annotated[
        str,
        typer.Option(
            help="Card, estimated: l4, a10g, l40s, a100-40gb, h100, h200.", rich_help_panel=MODEL
        ),
    ] = "h200",
    step_ms: Annotated[
        str | None,
        typer.Option(
            metavar="A+B", help="A step: A, and B for each answer.", rich_help_panel=MODEL
        ),
    ] = None,
    prefill_ms: Annotated[
        str | None,
        typer.Option(
            metavar="B", help="Reading an image; A+B adds A for each pass.", rich_help_panel=MODEL
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Both as measured: a file of `python -m loadtest.plan.calibrate`.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="US dollars for a GPU and hour.",
            show_default="an example",
            rich_help_panel=MODEL,
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="inference.max_batch_size.", rich_help_panel=MODEL),
    ] = None,
    outside_ms: Annotated[
        float,
        typer.Option(min=0, help="What a request takes outside the model.", rich_help_panel=MODEL),
    ] = 30.0,
    least: Annotated[
        int | None,
        typer.Option("--min", min=0, help="Fewest replicas.", rich_help_panel=SCALING),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option("--max", min=1, help="Most replicas.", rich_help_panel=SCALING),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(min=0.1, help="target_ongoing_requests.", rich_help_panel=SCALING),
    ] = None,
    upscale_delay: Annotated[
        float | None, typer.Option(min=0, help="Seconds.", rich_help_panel=SCALING)
    ] = None,
    downscale_delay: Annotated[
        float | None, typer.Option(min=0, help="Seconds.", rich_help_panel=SCALING)
    ] = None,
    node_start: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds until a node that is asked for is there.", rich_help_panel=SCALING
        ),
    ] = 180.0,
    replica_start: Annotated[
        float,
        typer.Option(min=0, help="Seconds until a model is loaded.", rich_help_panel=SCALING),
    ] = 40.0,
    idle_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds until a node without use is given back (KubeRay's idleTimeoutSeconds).",
            rich_help_panel=SCALING,
        ),
    ] = 60.0,
    gpus_per_node: Annotated[
        int, typer.Option(min=1, help="GPUs of one node.", rich_help_panel=SCALING)
    ] = 1,
    config: Annotated[
        Path | None,
        typer.Option(
            help="What is deployed.", show_default="serve_config.yaml", rich_help_panel=SCALING
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.", rich_help_panel=SHOWN)] = 0,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=V,V…",
            help="One column for each value: target=8,16,32.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A picture: .png, .svg, .pdf or .html.", rich_help_panel=SHOWN),
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate the autoscaling: a load in; replicas, waiting times, GPU hours and cost out."""
    from loadtest.plan.command import show
    from loadtest.plan.question import Question

    question = Question(
        rate=rate,
        arrivals=arrivals,
        peak=peak,
        duration=duration,
        burst=tuple(burst or ()),
        trace=trace,
        queued=queued,
        tokens=tokens,
        gpu=gpu,
        step_ms=step_ms,
        prefill_ms=prefill_ms,
        calibrate=calibrate,
        price=price,
        min=least,
        max=most,
        target=target,
        upscale_delay=upscale_delay,
        downscale_delay=downscale_delay,
        slots=slots,
        node_start=node_start,
        replica_start=replica_start,
        idle_timeout=idle_timeout,
        gpus_per_node=gpus_per_node,
        outside_ms=outside_ms,
        config=config,
        seed=seed,
    )
    show(question, out, compare, as_json, Console())
