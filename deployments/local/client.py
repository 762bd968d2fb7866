"""A client of the service, for the commands: runs a task, and downloads a picture."""

import base64
import io
import json
import mimetypes
import ssl
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from deployments.errors import SetupError
from deployments.florence import identity
from deployments.florence.tasks import APP

TIMEOUT_S = 300.0
UNTRUSTED = (
    "; its certificate is of an authority that is not known here: name the service's folder with "
    "--state, or the file of its authority in SSL_CERT_FILE"
)


class CallError(Exception):
    """A call that failed; the message is one line for a person.

    `status` is the answer's, 0 where there was none; `retry_after_s` is what it asks to wait.
    `is_away` says that nobody answered.
    """

    def __init__(
        self, line: str, status: int = 0, retry_after_s: float = 0.0, *, is_away: bool = False
    ) -> None:
        super().__init__(line)
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_away = is_away


class ServiceClient:
    """Calls the service at `url` with `key`. `authority` is trusted in addition to the system's."""

    def __init__(self, url: str, key: str, authority: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._authorization = {"Authorization": f"Key {key}"}
        self.model = ""  # that answered last, in its own words
        try:
            self._http = httpx2.Client(verify=ssl_context(authority), timeout=TIMEOUT_S)
            httpx2.URL(self._url)
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise SetupError(f"{url} is no URL of a service ({error})") from None

    @property
    def url(self) -> str:
        """Where it calls."""
        return self._url

    def __enter__(self) -> "ServiceClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def run(self, task: str, image_url: str, **fields: Any) -> bytes:
        """The body of the answer to an image, and to what else the task takes.

        Raises:
            CallError: the service refused, or does not answer.
        """
        url, body = f"{self._url}/{APP}/{task}", {"image_url": image_url, **fields}
        return self._ask("POST", url, json=body, headers=self._authorization)

    def submit(self, task: str, image_url: str, idempotency_key: str, **fields: Any) -> str:
        """Queue a job of low priority; its id, also when it was queued before.

        Raises:
            CallError: the service refused, or does not answer.
        """
        headers = {"Idempotency-Key": idempotency_key, "X-Fal-Queue-Priority": "low"}
        body = {"image_url": image_url, **fields}
        url = f"{self._url}/queue/{APP}/{task}"
        answer = self._ask("POST", url, json=body, headers=self._authorization | headers)
        return str(json.loads(answer)["request_id"])

    def is_completed(self, request_id: str) -> bool:
        """Whether a job has ended.

        Raises:
            CallError: there is no such job, or the service does not answer.
        """
        url = f"{self._url}/queue/{APP}/requests/{request_id}/status"
        answer = self._ask("GET", url, headers=self._authorization)
        return bool(json.loads(answer)["status"] == "COMPLETED")

    def result(self, request_id: str) -> bytes:
        """The body of a job's answer.

        Raises:
            CallError: it failed, or the service does not answer.
        """
        url = f"{self._url}/queue/{APP}/requests/{request_id}"
        return self._ask("GET", url, headers=self._authorization)

    def download(self, url: str) -> bytes:
        """The bytes of a picture. The key is not sent.

        Raises:
            CallError: it cannot be downloaded.
        """
        return self._ask("GET", url)

    def _ask(self, method: str, url: str, **options: Any) -> bytes:
        try:
            response = self._http.request(method, url, **options)
        except httpx2.ReadTimeout:
            raise CallError(f"no answer from {self._url} within {TIMEOUT_S:.0f} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            is_away = isinstance(error, httpx2.TransportError)
            remedy = UNTRUSTED if "CERTIFICATE_VERIFY" in str(error) else ""
            line = f"no answer from {self._url}: {error}{remedy}"
            raise CallError(line, is_away=is_away) from None
        except UnicodeEncodeError as error:  # in the body, a URL or the key
            raise CallError(f"cannot be sent: {error.reason} ({error.encoding})") from None
        if response.is_success:
            self.model = response.headers.get(identity.HEADER, self.model)
            return response.content
        raise CallError(error_line(response), response.status_code, retry_after_s(response))


def ssl_context(authority: Path | None) -> ssl.SSLContext:
    """Trusts the system's authorities, and `authority` if the file exists."""
    context = ssl.create_default_context()
    if authority is not None and authority.is_file():
        context.load_verify_locations(authority)
    return context


def retry_after_s(response: httpx2.Response) -> float:
    """What `Retry-After` asks to wait; a second where it says nothing."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return 1.0


def error_line(response: httpx2.Response) -> str:
    try:
        body = response.json()
        detail, hint = body["detail"], body.get("hint", "")
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"
    if isinstance(detail, list):
        detail = "; ".join(f"{item.get('msg')} ({item.get('type')})" for item in detail)
    return f"{response.status_code}: {' '.join(f'{detail} {hint}'.split())}"


def data_uri(data: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def data_uri_of(image: Image.Image) -> str:
    """An image as a URI, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


def data_uri_of_file(file: Path) -> str:
    """A file as a URI.

    Raises:
        CallError: it cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CallError(error.strerror or str(error)) from None
    return data_uri(content, mimetypes.guess_type(file.name)[0] or "application/octet-stream")
