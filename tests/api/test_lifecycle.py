"""How long files are wanted."""

import math

import pytest

from deployments.api.lifecycle import HEADERS, files_ttl_s
from deployments.errors import BadRequest


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ('{"expiration_duration_seconds": 3600}', 3600.0),
        ('{"expiration_duration_seconds": null}', math.inf),
        ('{"expiration_duration_seconds": 0}', math.inf),
        ('{"initial_acl": {"default": "hide"}}', None),
        ('{"expiration_duration_seconds": 60, "initial_acl": {"default": "hide"}}', 60.0),
        ("{}", None),
    ],
)
def test_a_wish_is_read(header: str, wish: str, expected: float | None) -> None:
    """Whole seconds; null is for ever; without a word there is no wish."""
    assert files_ttl_s({header: wish}) == expected


def test_nothing_is_no_wish() -> None:
    """Without a header the settings decide."""
    assert files_ttl_s({}) is None


@pytest.mark.parametrize(
    "wish",
    [
        "",
        "3600",
        "[]",
        "{",
        '{"expiration_duration_seconds": -1}',
        '{"expiration_duration_seconds": "60"}',
        '{"expiration_duration_seconds": true}',
        '{"expiration_duration_seconds": 1.5}',
    ],
)
def test_what_cannot_be_read_is_refused(wish: str) -> None:
    """A wish is not dropped in silence."""
    with pytest.raises(BadRequest, match="x-fal-object-lifecycle must be JSON"):
        files_ttl_s({HEADERS[0]: wish})
