"""The folder tree is the diagram: imports go one way, heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

import deployments
from deployments.dispatcher import Dispatcher
from deployments.inference import Inference
from deployments.ingress import Ingress
from deployments.local.profile import LAPTOP, serve_config
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess

PACKAGE = Path(deployments.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DEPLOYMENTS = (Ingress, Preprocess, Inference, Postprocess, Dispatcher)

# A part may import those of lower rank, and itself; parts of one rank never each other,
# but for the ground floor.
RANKS = {
    "settings": 0,
    "errors": 0,
    "telemetry": 0,
    "autoscaling": 0,
    "ray_compat": 0,
    "net": 0,
    "florence": 1,
    "images": 1,
    "files": 1,
    "webhooks": 1,
    "jobs": 2,
    "api": 3,
    "pipeline": 3,
    "ingress": 5,
    "preprocess": 5,
    "inference": 5,
    "postprocess": 5,
    "dispatcher": 5,
    "app": 6,
    "demo": 6,
    "local": 7,
    "cli": 8,
}
HOMES = {
    "ray": {
        "app.py",
        "autoscaling.py",
        "ingress.py",
        "pipeline.py",
        "ray_compat.py",
        "telemetry/metrics.py",
        "jobs/sqlite/owner.py",
        "local/launch.py",
    },
    "fastapi": {"api/"},
    "opentelemetry": {"telemetry/"},
    "starlette": {"api/", "ingress.py"},
    "torch": {
        "florence/engine/",
        "florence/model.py",
        "florence/generate.py",
        "florence/backend.py",
        "florence/memory_estimate.py",
        "demo/training/",
    },
    "transformers": {
        "florence/model.py",
        "florence/generate.py",
        "florence/memory_estimate.py",
        "demo/training/",
    },
    "typer": {"cli/", "demo/training/recipe.py"},
    "loadtest": set(),
    "tests": set(),
}
LAZY = {
    ("autoscaling.py", "ray"),
    ("ray_compat.py", "ray"),
    ("telemetry/metrics.py", "ray"),
    ("telemetry/tracing.py", "deployments.telemetry.exporters"),
    ("telemetry/tracing.py", "opentelemetry.sdk"),
    ("local/launch.py", "deployments.telemetry.tracing"),
    ("local/launch.py", "ray"),
    ("inference.py", "deployments.florence.model"),
    ("inference.py", "deployments.florence.backend"),
}
# What a benchmark runs where neither Ray nor pydantic is installed, and what else it may import.
ENGINE = [
    *(PACKAGE / "florence" / "engine").rglob("*.py"),
    PACKAGE / "errors.py",
    *(
        PACKAGE / "florence" / name
        for name in ("image_cache.py", "request.py", "scheduler.py", "sequence.py", "stages.py")
    ),
]
ENGINE_LIBRARIES = {"numpy", "torch"} | sys.stdlib_module_names


def name_of(file: Path) -> str:
    """A module's path inside the package."""
    return file.relative_to(PACKAGE).as_posix()


def part_of(module: str) -> str:
    """The part that `deployments.part.more` belongs to; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere under `node`, with what `from` takes out of it."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute"
            assert each.module
            if each.module == "deployments":
                yield from (f"deployments.{alias.name}" for alias in each.names)
            else:
                yield each.module


def imported_at_once(node: ast.AST) -> Iterator[str]:
    """Modules that are imported when the module itself is, not inside a function or for types."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.Import | ast.ImportFrom):
            yield from imports(each)
        elif isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_once(each)


def tree(file: Path) -> ast.AST:
    """A module as syntax."""
    return ast.parse(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_one_way(file: Path) -> None:
    """Each part imports only what stands below it in the diagram."""
    importer = name_of(file).removesuffix(".py").split("/")[0]
    if importer == "__init__":
        assert list(imports(tree(file))) == []
        return
    for module in imports(tree(file)):
        imported = part_of(module) if module.startswith("deployments.") else None
        if imported in (None, "__version__") or imported == importer:
            continue
        assert imported in RANKS, f"{imported} has no place in the diagram"
        below = RANKS[imported] < RANKS[importer] or RANKS[importer] == RANKS[imported] == 0
        assert below, f"{importer} must not import {imported}"


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_where_they_belong(library: str) -> None:
    """A library that is confined to some modules is imported nowhere else."""
    users = {name_of(f) for f in FILES for m in imports(tree(f)) if m.split(".")[0] == library}
    homes = HOMES[library]
    strays = {user for user in users if not any(user.startswith(home) for home in homes)}
    assert strays == set()


@pytest.mark.parametrize(("name", "library"), sorted(LAZY))
def test_some_libraries_wait_until_they_are_needed(name: str, library: str) -> None:
    """Ray is not loaded by the metrics or the command line, nor torch by a deployment."""
    loaded = imported_at_once(tree(PACKAGE / name))
    assert [module for module in loaded if f"{module}.".startswith(f"{library}.")] == []


@pytest.mark.parametrize("file", ENGINE, ids=name_of)
def test_the_engine_needs_little(file: Path) -> None:
    """All that it imports, near or far, is itself, a few plain modules, torch and numpy."""
    modules = {f"deployments.{name_of(each)[:-3].replace('/', '.')}" for each in ENGINE}
    others = set(imports(tree(file))) - modules
    assert {module for module in others if module.split(".")[0] not in ENGINE_LIBRARIES} == set()


@pytest.mark.parametrize("name", ["utils", "common", "types", "helpers", "misc"])
def test_nothing_is_named_for_what_it_is_not(name: str) -> None:
    """A thing lives beside its use, and shadows no other package."""
    assert [file for file in FILES if name in (file.stem, *file.relative_to(PACKAGE).parts)] == []


def test_every_module_says_what_it_is() -> None:
    """Each begins with a docstring."""
    silent = [name_of(file) for file in FILES if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "deployments.app, deployments.ingress, deployments.preprocess, "
            "deployments.inference, deployments.postprocess, deployments.dispatcher",
            ("torch", "transformers"),
        ),
        ("deployments.preprocess, deployments.postprocess", ("fastapi", "opentelemetry.sdk")),
        (
            "deployments.cli.predict, deployments.cli.serve, deployments.cli.demo",
            ("torch", "transformers", "ray", "fastapi", "opentelemetry"),
        ),
    ],
    ids=["deployments", "workers", "command line"],
)
def test_a_fresh_process_loads_no_more_than_it_needs(modules: str, absent: tuple[str, ...]) -> None:
    """An Ingress replica without torch takes half the memory; a command starts at once."""
    script = f"import sys, {modules}; print(*(name for name in {absent!r} if name in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == []


@pytest.mark.parametrize("file", [serve_config(), LAPTOP], ids=lambda file: file.name)
def test_deployments_are_named_alike_in_code_and_configuration(file: Path) -> None:
    """Serve matches a deployment's options to its class by name."""
    [application] = yaml.safe_load(file.read_text())["applications"]
    names = {deployment["name"] for deployment in application["deployments"]}
    assert {deployment.__name__ for deployment in DEPLOYMENTS} == names


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment.__name__)
def test_a_deployment_travels_by_reference(deployment: type) -> None:
    """A replica imports its own class; one that is sent by value drags in all it knows."""
    assert len(cloudpickle.dumps(deployment)) < 100  # type: ignore[no-untyped-call]
