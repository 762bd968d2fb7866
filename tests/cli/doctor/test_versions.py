"""The packages are those that the release was tested with."""

from deployments import __version__
from deployments.cli.doctor.verdict import Kind
from deployments.cli.doctor.versions import installed, judged, pinned, versions


def test_what_is_installed_here_is_what_is_pinned() -> None:
    """What only the tests need is not asked for."""
    assert versions().kind is Kind.OK
    assert f"florence {__version__}" in versions().said
    assert set(pinned()) == {"ray", "torch", "transformers"}


def test_another_version_fails() -> None:
    """The remedy can be pasted."""
    found = judged({"ray": "2.60.0", "torch": "2.13.0"}, {"ray": "2.59.1", "torch": ""})
    assert found.kind is Kind.FAIL
    assert found.said == "ray 2.59.1, torch is missing"
    assert found.remedy == "pip install ray==2.60.0 torch==2.13.0"


def test_a_package_that_is_not_there_has_no_version() -> None:
    """And a build's own mark is none of it."""
    assert installed("no-such-package") == ""
    assert "+" not in installed("torch")
