"""`make bench`: the running service under a closed loop, against a plain loop of its model.

    python -m loadtest.bench.service [--requests 320] [--tokens 40] [--no-haproxy] [--set P=V]...

512×512 JPEGs as data URIs, the checkpoint's own three beams, answers of one length, one torch
thread.
The offline limit is measured just before and just after the service, in the same run.
"""

from typing import Annotated

import typer
from rich.console import Console

from loadtest.bench import figures, offline
from loadtest.bench.checkpoint import bench_checkpoint
from loadtest.bench.closed_loop import CONCURRENCIES, ROWS
from loadtest.bench.launch import Haproxy, Sets, fixed_length, local_service
from loadtest.scenes import body_with, photograph

WARM_UP = 16


def main(
    requests: Annotated[int, typer.Option(help="Requests at concurrency 16.")] = 320,
    tokens: Annotated[int, typer.Option(help="Tokens of every answer.")] = 40,
    haproxy: Haproxy = True,
    sets: Sets = None,
) -> None:
    """Measure, print the table, write out/bench/service.json."""
    console = Console()
    checkpoint = bench_checkpoint()
    jpegs = [photograph(number) for number in range(32)]
    settings = [*fixed_length(tokens), *(sets or [])]
    with console.status("Measuring the offline limit …") as status:
        before = offline.images_per_s(checkpoint, tokens, None, jpegs)
        status.update("Starting the service …")
        with local_service(checkpoint, haproxy, settings) as service:
            status.update("Driving the service …")
            loop = service.loop([body_with(jpeg) for jpeg in jpegs])
            rows = {}
            for num in CONCURRENCIES:
                many = requests if num > 1 else requests // 8
                rows[f"{num} clients"], _ = loop.measure(service.work, num, many, WARM_UP)
            memory = {
                "resident_mb": service.processes.resident_mb(),
                "proportional_mb": service.processes.proportional_mb(),
            }
            by_process = service.processes.by_process()
        status.update("Measuring the offline limit again …")
        after = offline.images_per_s(checkpoint, tokens, None, jpegs)
    limit = (before + after) / 2
    for row in rows.values():
        row["of_offline_limit"] = row["requests_per_s"] / limit
    result = {
        "offline_images_per_s": {"before": before, "after": after, "mean": limit},
        "num_tokens": tokens,
        "haproxy": haproxy,
        "settings": sets or [],
        "service": [*rows.values()],
        "memory": {**memory, "by_process": by_process},
    }
    console.print(figures.table("512×512 JPEG data URIs, closed loop", rows, ROWS))
    console.print(f"Offline limit: {before:.2f} before, {after:.2f} after, images/s.")
    console.print(
        f"Resident: {memory['resident_mb']:.0f} MB in all, "
        f"{memory['proportional_mb']:.0f} MB with shared pages counted once."
    )
    console.print(f"Figures: {figures.write('service', result)}")


if __name__ == "__main__":
    typer.run(main)
