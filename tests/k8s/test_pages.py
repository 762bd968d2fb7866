"""What the pages about Kubernetes say is what the chart does."""

import re
from pathlib import Path

import pytest

from deployments import __version__
from k8s.generate.helm import CHART
from k8s.generate.manifests import FOLDER
from k8s.generate.readme import rows
from k8s.generate.values import read_keys
from tests.k8s.rendered import one
from tests.test_docs import commands, options_of, settings

K8S = CHART.parent
PAGE = K8S / "README.md"
PAGES = [PAGE, CHART / "README.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=["k8s", "chart"])


def values() -> set[str]:
    """The paths of all values, those of groups by themselves too."""
    paths = {".".join(key.path) for key in rows(read_keys())}
    return paths | {
        path.split(".", 2)[2] for path in paths if path.startswith("groupDefaults.cpu.")
    }


@each_page
def test_every_command_exists(page: Path) -> None:
    """Those of `florence`, with their options."""
    for words in commands(page.read_text()):
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given - options_of(words) == set(), words


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """Within the repository."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []


@each_page
def test_every_value_exists(page: Path) -> None:
    """What looks like one, in text and after `--set`."""
    text = page.read_text()
    sections = "|".join(key.name for key in read_keys() if key.keys)
    named = set(re.findall(rf"[` ]((?:{sections})(?:\.[a-zA-Z]+)+)[`:=.,]", text))
    known = values() | settings()
    assert {name for name in named if not name.startswith("serve.deployments")} - known == set()


def test_values_are_found() -> None:
    """So that the test above can fail."""
    text = PAGE.read_text()
    assert {"drain.seconds", "model.source", "gcs.faultTolerance"} <= set(
        re.findall(r"`([a-z]+\.[a-zA-Z]+)`", text)
    )


@each_page
def test_versions_are_this_one(page: Path) -> None:
    """Of the image, in commands."""
    assert set(re.findall(r"florence-serve:([\d.]+\d)", page.read_text())) <= {__version__}


def test_the_manifests_that_are_named_are_there() -> None:
    """And the examples."""
    named = re.findall(r"k8s/(manifests|chart/examples)/([\w-]+)\.yaml", PAGE.read_text())
    assert named
    for folder, name in named:
        assert (K8S.parent / "k8s" / folder / f"{name}.yaml").exists()
    assert FOLDER.exists()


def test_the_table_of_ports_is_what_the_policies_say() -> None:
    """A port that a policy opens to others is in the table, with whom it is open to."""
    table = PAGE.read_text().split("## Security")[1].split("Ray's dashboard with its token")[0]
    opened = {
        port["port"]
        for ending in ("-head", "-worker")
        for rule in one("NetworkPolicy", "groups", ending)["spec"]["ingress"]
        for port in rule.get("ports", ())
    }
    for port in opened:
        assert re.search(rf"^\|[^|]*\b{port}\b", table, re.MULTILINE), port


def test_five_commands_are_five() -> None:
    """The first block of the part that says so."""
    part = PAGE.read_text().split("## Install in five commands")[1]
    block = part.split("```sh\n")[1].split("```")[0]
    assert len(block.strip().splitlines()) == 5
