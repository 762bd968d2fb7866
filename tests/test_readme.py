"""What the README and the reference pages say is what the code does."""

import re
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from deployments import errors as errors_module
from deployments.api.openapi import VERSION
from deployments.errors import InputError, ModelError, RequestError, ServiceError
from deployments.settings import Settings
from tests.test_docs import options_of

GATHERING = {ServiceError, ModelError, InputError, RequestError}
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
MAX_WORDS = 1200


def page(name: str) -> str:
    """A page of the documentation."""
    return (DOCS / name).read_text()


def settings_rows() -> list[str]:
    """The rows of the settings table, as the code has them."""
    rows = []
    for name, section in Settings.model_fields.items():
        part = section.annotation
        assert isinstance(part, type)
        assert issubclass(part, BaseModel)
        for key, field in part.model_fields.items():
            default = shown(field.get_default(call_default_factory=True))
            rows.append(f"| `{name}.{key}` | {default} | {field.description} |")
    return rows


def shown(default: object) -> str:
    """A default as YAML would have it."""
    if default is None:
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in default) + "]`"
    return f"`{default}`"


def errors() -> list[type[ServiceError]]:
    """Every error that a client can see; those that only gather others are never raised."""
    named = vars(errors_module).values()
    family = {e for e in named if isinstance(e, type) and issubclass(e, ServiceError)}
    return sorted(family - GATHERING, key=lambda error: (error.status, error.type, error.__name__))


def error_rows() -> list[str]:
    """The rows of the errors table, as the code has them."""
    rows = []
    for error in errors():
        retry = "yes" if error.retryable else "no"
        first = (error.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| {error.status} | `{error.type}` | {retry} | {first} |")
    return rows


def test_the_settings_table_is_the_code() -> None:
    """Every setting has its row with its default and its description, in order."""
    rows = re.findall(r"^\| `\w+\.\w+` \|.*$", page("settings.md"), re.MULTILINE)

    assert rows == settings_rows()


def test_the_errors_table_is_the_code() -> None:
    """Every error has its row with its status, fal's name and its meaning."""
    rows = re.findall(r"^\| \d{3} \|.*$", page("errors.md"), re.MULTILINE)

    assert rows == error_rows()


def tree_names() -> list[str]:
    """The paths of the folder tree."""
    block = page("architecture.md").partition("## The folder tree")[2].split("```")[1]
    names: list[str] = []
    folder = ""
    for line in block.strip("\n").splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        path = line.split("  ")[indent // 2].strip()
        folder = path if indent == 0 and path.endswith("/") else folder if indent else ""
        names += [(folder if indent else "") + name for name in path.split(" · ")]
    return names


def test_the_folder_tree_exists() -> None:
    """Every path in the tree is there."""
    missing = [name for name in tree_names() if not (ROOT / name).exists()]

    assert len(tree_names()) > 20
    assert missing == []


def test_every_module_stands_in_the_folder_tree() -> None:
    """No module and no folder of the package is left out."""
    here = {
        f"deployments/{path.name}{'/' if path.is_dir() else ''}"
        for path in (ROOT / "deployments").iterdir()
        if not path.name.startswith("__")
    }

    assert here - set(tree_names()) == set()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)", README))))
def test_make_targets_exist(target: str) -> None:
    """Every `make` command of the README is in the Makefile."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


SHELL = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


def test_the_options_of_make_serve_exist() -> None:
    """Those in ARGS; tests/acceptance/test_readme_snippets.py runs the other commands."""
    given = re.findall(r'make serve ARGS="?([^"`]+)', README)
    options = {word for text in given for word in shlex.split(text) if word.startswith("--")}

    assert len(given) == 3
    assert options - options_of(["serve"]) == set()


def test_the_files_in_commands_exist() -> None:
    """Those of the repository, such as the chart and the values that Helm installs it with."""
    named = re.findall(r"(?<![\w/.])(?:k8s|deployments)/[\w/.-]+", SHELL)

    assert "k8s/chart/examples/autoscaled-l4.yaml" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_short() -> None:
    """A reader gets through it in five minutes."""
    assert len(README.split()) < MAX_WORDS


def test_pictures_exist() -> None:
    """Every picture that the README shows is there."""
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)

    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_changelog_has_this_version() -> None:
    """The newest heading of the changelog is the version of the package."""
    newest = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest
    assert newest[1] == VERSION
