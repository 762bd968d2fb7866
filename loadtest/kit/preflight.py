"""What is looked at before any load: does the service answer, and does it take the key?"""

from uuid import uuid4

import httpx2

from deployments.errors import SetupError
from deployments.florence.tasks import APP

TIMEOUT_S = 15.0
EXPECTED = 404  # of a request that nobody has submitted
REFUSED = (401, 403)


def check(url: str, key: str) -> None:
    """Ask for a request that does not exist, which takes a key and costs next to nothing.

    Raises:
        SetupError: the service does not answer, refuses the key, or is another one.
    """
    status = answer_of(url, key)
    if status in REFUSED:
        raise SetupError(f"{url} refuses the key ({status}): give another with --key")
    if status != EXPECTED:
        raise SetupError(f"{url} answers {status} where Florence Serve says 404: check --url")


def answer_of(url: str, key: str) -> int:
    """The status of that answer.

    Raises:
        SetupError: there is none.
    """
    asked = f"{url}/queue/{APP}/requests/{uuid4()}/status"
    headers = {"Authorization": f"Key {key}"}
    try:
        answer = httpx2.get(asked, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
        raise SetupError(
            f"no service answers at {url} ({str(error) or error.__class__.__name__}): "
            "start one, or leave --url out to have one started"
        ) from None
    return int(answer.status_code)
