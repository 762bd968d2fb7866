"""What a start says when it is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from deployments.errors import SetupError


def refusal_of(start: Callable[..., Any], *given: Any) -> str:
    """Why `start(*given)` is refused, in one line."""
    with pytest.raises(SetupError) as refused:
        start(*given)
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    return line
