"""The folder tree is the diagram: imports go one way, heavy libraries stay where they belong."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

import deployments
from deployments.dispatcher import Dispatcher
from deployments.inference import Inference
from deployments.ingress import Ingress
from deployments.local.config import LAPTOP, serve_config
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess

REPOSITORY = Path(deployments.__file__).parent.parent
PACKAGE = REPOSITORY / "deployments"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = [
    *FILES,
    *(file for part in ("loadtest", "k8s", "tests") for file in (REPOSITORY / part).rglob("*.py")),
]
DEPLOYMENTS = (Ingress, Preprocess, Inference, Postprocess, Dispatcher)

# A part imports parts of the layers before its own, and itself.
LAYERS = (
    ("errors", "autoscaling", "ray_compat"),
    ("settings",),
    ("telemetry", "net"),
    ("florence", "images", "files", "webhooks"),
    ("jobs",),
    ("api", "pipeline"),
    ("ingress", "preprocess", "inference", "postprocess", "dispatcher"),
    ("app", "demo"),
    ("local",),
    ("cli",),
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
HOMES = {
    "ray": {
        "app.py",
        "autoscaling.py",
        "ingress.py",
        "pipeline.py",
        "ray_compat.py",
        "telemetry/metrics.py",
        "jobs/sqlite/owner_actor.py",
        "local/launch.py",
    },
    "fastapi": {"api/"},
    "opentelemetry": {"telemetry/"},
    "starlette": {"api/", "ingress.py"},
    "torch": {
        "florence/engine/",
        "florence/model.py",
        "florence/generate_backend.py",
        "florence/open.py",
        "florence/memory_estimate.py",
        "florence/weights.py",
        "florence/convert/",
        "demo/training/",
    },
    "transformers": {
        "florence/weights.py",
        "florence/model.py",
        "florence/generate_backend.py",
        "florence/memory_estimate.py",
        "demo/training/",
    },
    "typer": {"cli/", "demo/training/train.py", "demo/training/evaluation.py"},
    "loadtest": set(),
    "k8s": set(),
    "tests": set(),
}
# Private parts of Ray; tests may use them, to compare what we rely on.
PRIVATE_RAY = re.compile(r"ray\.((\w+\.)*_private|experimental|_common|_raylet)\b")
LAZY = {
    ("autoscaling.py", "ray"),
    ("ray_compat.py", "ray"),
    ("telemetry/metrics.py", "ray"),
    ("telemetry/tracing.py", "deployments.telemetry.exporters"),
    ("telemetry/tracing.py", "opentelemetry.sdk"),
    ("local/launch.py", "deployments.telemetry.tracing"),
    ("local/launch.py", "ray"),
    ("inference.py", "deployments.florence.model"),
    ("inference.py", "deployments.florence.open"),
}
# What a benchmark runs where neither Ray nor pydantic is installed, and what else it may import.
BESIDE_THE_ENGINE = (
    "backend.py",
    "image_cache.py",
    "scheduler.py",
    "sequence.py",
    "token_scores.py",
)
ENGINE = [
    *(PACKAGE / "florence" / "engine").rglob("*.py"),
    PACKAGE / "errors.py",
    *(PACKAGE / "florence" / name for name in BESIDE_THE_ENGINE),
]
ENGINE_LIBRARIES = {"numpy", "torch"} | sys.stdlib_module_names


def name_of(file: Path) -> str:
    """A module's path inside the package, or the repository."""
    return file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else REPOSITORY).as_posix()


def module_of(file: Path) -> str:
    """The name under which a file is imported."""
    path = file.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
    return path.removesuffix(".__init__")


def part_of(module: str) -> str:
    """The part that `deployments.part.more` belongs to; empty for others, and the package."""
    package, _, inside = module.partition(".")
    return inside.partition(".")[0] if package == "deployments" else ""


@cache
def tree(file: Path) -> ast.Module:
    """A module as syntax."""
    return ast.parse(file.read_text())


MODULES = {module_of(file): file for file in ALL_FILES}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere under `node`, but for type checkers alone."""
    for each in ast.iter_child_nodes(node):
        if is_for_types(each):
            continue
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom) and each.module:
            for alias in each.names:
                inside = f"{each.module}.{alias.name}"  # a relative one is a neighbour in tests/
                yield inside if inside in MODULES else each.module
        elif isinstance(each, ast.stmt | ast.excepthandler | ast.match_case):
            yield from imports(each)


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Every module that a file imports, at once or later."""
    return frozenset(imports(tree(file)))


def imported_at_once(node: ast.AST) -> Iterator[str]:
    """Modules that are imported when the module itself is, not inside a function."""
    for each in ast.iter_child_nodes(node):
        if is_for_types(each):
            continue
        if isinstance(each, ast.Import | ast.ImportFrom):
            yield from imports(ast.Module([each], []))
        elif not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_once(each)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, set()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_modules_import_each_other() -> None:
    """Not in a circle either, anywhere in the repository, not even inside a function."""
    graph = {name: set(imports_of(file) & MODULES.keys()) for name, file in MODULES.items()}
    assert circles(graph) == []


def test_circles_are_found() -> None:
    """Those of two and of three; what only leads to one is none."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["d", "e"]]


def test_imports_go_one_way() -> None:
    """Each part imports only parts of the layers before its own."""
    assert not imports_of(PACKAGE / "__init__.py")
    wrong = [
        f"{name_of(file)} imports {module}"
        for file in FILES
        if (importer := part_of(module_of(file)))
        for module in imports_of(file)
        if (imported := part_of(module)) not in ("", importer)
        and LAYER[imported] >= LAYER[importer]
    ]
    assert wrong == []


def test_the_command_line_is_imported_by_itself_alone() -> None:
    """Whatever starts a service on this machine is in `local`."""
    users = [
        name_of(file)
        for file in ALL_FILES
        if not file.is_relative_to(REPOSITORY / "tests") and part_of(module_of(file)) != "cli"
        for module in imports_of(file)
        if part_of(module) == "cli"
    ]
    assert users == []


def test_rays_private_parts_are_used_in_one_module() -> None:
    """And in the policy, which Serve pickles by value."""
    users = {
        name_of(file)
        for file in ALL_FILES
        if not file.is_relative_to(REPOSITORY / "tests")
        if any(PRIVATE_RAY.match(module) for module in imports_of(file))
    }
    assert users == {"autoscaling.py", "ray_compat.py"}


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_where_they_belong(library: str) -> None:
    """A library that is confined to some modules is imported nowhere else."""
    users = {name_of(f) for f in FILES for m in imports_of(f) if m.split(".")[0] == library}
    homes = HOMES[library]
    strays = {user for user in users if not any(user.startswith(home) for home in homes)}
    assert strays == set()


@pytest.mark.parametrize(("name", "library"), sorted(LAZY))
def test_some_libraries_wait_until_they_are_needed(name: str, library: str) -> None:
    """Ray is not loaded by the metrics or the command line, nor torch by a deployment."""
    loaded = imported_at_once(tree(PACKAGE / name))
    assert [module for module in loaded if f"{module}.".startswith(f"{library}.")] == []


def test_the_engine_needs_little() -> None:
    """All that it imports, near or far, is itself, a few plain modules, torch and numpy."""
    modules = {module_of(file) for file in ENGINE}
    others = {module for file in ENGINE for module in imports_of(file)} - modules
    assert {module for module in others if module.split(".")[0] not in ENGINE_LIBRARIES} == set()


def test_no_module_is_named_for_everything() -> None:
    """A module stands next to its use, and shadows no other package."""
    names = {"utils", "common", "types", "helpers", "misc"}
    assert [f for f in ALL_FILES if names & {f.stem, *f.relative_to(REPOSITORY).parts}] == []


def test_every_module_says_what_it_is() -> None:
    """Each begins with a docstring."""
    assert [name_of(file) for file in ALL_FILES if not ast.get_docstring(tree(file))] == []


def test_a_class_name_is_one_class() -> None:
    """In the service, the load tests and the chart's generator."""
    homes: dict[str, list[str]] = defaultdict(list)
    for file in ALL_FILES:
        if not file.is_relative_to(REPOSITORY / "tests"):
            for node in ast.walk(tree(file)):
                if isinstance(node, ast.ClassDef):
                    homes[node.name].append(name_of(file))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


@pytest.mark.slow
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
