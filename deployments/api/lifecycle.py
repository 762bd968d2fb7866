"""How long a caller wants files to be kept, as fal's clients say it in a header."""

import math
from collections.abc import Mapping

from pydantic import BaseModel, Field, ValidationError

from deployments.errors import BadRequest

FOREVER_S = 10**11  # three thousand years; no larger number has to fit anywhere
# Both stand for the same; fal's clients send one or the other, or both alike.
HEADERS = ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference")


class Lifecycle(BaseModel):
    """The wish in JSON; access rules in it have no meaning here, where names are secret."""

    expiration_duration_seconds: int | None = Field(None, strict=True, ge=0)


def files_ttl_s(headers: Mapping[str, str]) -> float | None:
    """Seconds for which files are wanted, infinite for ever; None when nothing is said.

    Raises:
        BadRequest: a header is there that cannot be read.
    """
    name = next((name for name in HEADERS if name in headers), None)
    if name is None:
        return None
    try:
        wish = Lifecycle.model_validate_json(headers[name])
    except ValidationError:
        raise BadRequest(
            f"{name} must be JSON with expiration_duration_seconds, a whole number or null."
        ) from None
    if "expiration_duration_seconds" not in wish.model_fields_set:
        return None
    seconds = wish.expiration_duration_seconds or FOREVER_S  # 0 is for ever, as fal has it
    return math.inf if seconds >= FOREVER_S else float(seconds)
