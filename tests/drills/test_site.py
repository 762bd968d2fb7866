"""Every part of a whole installation is broken in turn, and no client's request fails."""

from collections.abc import Iterator

import pytest

from loadtest.drills.__main__ import DRILLS
from loadtest.drills.drill import perform
from loadtest.drills.site import Site, site

pytestmark = pytest.mark.slow

SECONDS = 4.0
CHOSEN = (
    "ingress",
    "dispatcher",
    "controller",
    "database-away",
    "files-away",
    "bad-model",
    "weights",
    "head",
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Site]:
    """One installation for all: what was mended is broken again."""
    with site() as found:
        yield found


@pytest.mark.parametrize("name", CHOSEN)
def test_no_request_fails(whole: Site, name: str) -> None:
    """Each is answered, rightly; each that was acknowledged is done; the part comes back."""
    outcome = perform(DRILLS[name](), whole, SECONDS)

    assert outcome.complaints == []
    assert outcome.tally.final == {}
    assert outcome.tally.runs > 0
    assert outcome.tally.acknowledged
