"""Every error that a client or an operator can see, as one family.

    ServiceError                     a client sees it, over HTTP
    ├── InputError            422    {"detail": [{loc, msg, type, url, ctx?, input?}]}
    │   ├── InvalidInput             the body does not fit the endpoint's schema
    │   ├── FileDownloadError        the URL could not be fetched
    │   ├── FileTooLarge             more bytes than allowed
    │   ├── ImageLoadError           the bytes are no readable image
    │   ├── ImageTooLarge            more pixels than allowed
    │   ├── ImageTooSmall            fewer pixels than needed
    │   └── UnsupportedImageFormat   an image, or a file, of a kind that is not read
    ├── GenerationError       500    the same shape: the model failed on this request
    └── RequestError                 {"detail": "...", "error_type": "..."}
        ├── BadRequest        400
        ├── RequestInProgress 400    its result was asked for too early
        ├── IdempotencyConflict 400
        ├── Unauthorized      401
        ├── Forbidden         403
        ├── NotFound          404
        ├── MethodNotAllowed  405
        ├── PayloadTooLarge   413
        ├── RangeNotSatisfiable 416
        ├── ClientDisconnected 499
        ├── ClientCancelled   499
        ├── InternalError     500
        ├── RunnerDisconnected 503
        ├── EngineStopped     503
        ├── NotReady          503
        ├── StoreUnavailable  503
        ├── Overloaded        429    carries retry_after_s
        │   ├── QueueFull
        │   └── RateLimited
        ├── StartTimeout      504    the caller's own X-Fal-Request-Timeout ran out
        └── RequestTimeout    504
    SetupError                       an operator sees it, on the command line: one line, exit code 2

A class says its HTTP status and fal's name for it once; its docstring is the default message.
The names are those of fal's error reference (https://docs.fal.ai/errors).
The classes survive pickling, because they cross from one replica to another.
"""

from typing import Any, ClassVar, Self

DOCS_URL = "https://docs.fal.ai/errors/#"

Headers = dict[str, str]


class ServiceError(Exception):
    """The request could not be served."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    hint: str = ""  # how to do it right, where that is known

    def __init_subclass__(cls, status: int = 0, type: str = "", retryable: bool = False) -> None:
        """A class gives its status and type in its first line, or has its parent's."""
        super().__init_subclass__()
        cls.status = status or cls.status
        cls.type = type or cls.type
        cls.retryable = retryable or cls.retryable

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        return str(self.args[0])

    def body(self) -> dict[str, Any]:
        """The JSON body in fal's shape; a hint is ours."""
        return self._body() | ({"hint": self.hint} if self.hint else {})

    def with_hint(self, hint: str) -> Self:
        self.hint = hint
        return self

    def _body(self) -> dict[str, Any]:
        return {"detail": self.message, "error_type": self.type}

    def headers(self) -> Headers:
        """The response headers in fal's words."""
        return {
            "X-Fal-Error-Type": self.type,
            "X-Fal-Needs-Retry": "1" if self.retryable else "0",
            "X-Fal-Retryable": "true" if self.retryable else "false",
        }


class ModelError(ServiceError):
    """The endpoint refused this input."""

    def __init__(
        self,
        message: str | None = None,
        *,
        loc: tuple[str | int, ...] = ("body", "image_url"),
        **ctx: Any,
    ) -> None:
        super().__init__(message)
        self.loc = loc
        self.ctx = ctx

    def items(self) -> list[dict[str, Any]]:
        return [fault(self.type, self.loc, self.message, **self.ctx)]

    def _body(self) -> dict[str, Any]:
        return {"detail": self.items()}


class InputError(ModelError, status=422, type="value_error"):
    """The input cannot be used."""


class InvalidInput(InputError):
    """The body does not fit the endpoint's schema."""

    faults: list[dict[str, Any]]

    @classmethod
    def of(cls, faults: list[dict[str, Any]]) -> "InvalidInput":
        """An error that reports pydantic's `faults`, each with loc, msg and type."""
        error = cls()
        error.faults = faults
        return error

    def items(self) -> list[dict[str, Any]]:
        return self.faults if hasattr(self, "faults") else super().items()


class FileDownloadError(InputError, type="file_download_error"):
    """Failed to download the file. Please check if the URL is accessible and try again."""


class FileTooLarge(InputError, type="file_too_large"):
    """The file is larger than allowed."""

    @classmethod
    def of(cls, max_bytes: int) -> "FileTooLarge":
        """An error that names the limit, also as `max_size` of its context."""
        return cls(f"The file is larger than {max_bytes} bytes.", max_size=max_bytes)


class ImageLoadError(InputError, type="image_load_error"):
    """Failed to load the image. Please ensure that the file is a valid, uncorrupted image."""


class ImageTooLarge(InputError, type="image_too_large"):
    """The image has more pixels than allowed."""


class ImageTooSmall(InputError, type="image_too_small"):
    """The image has fewer pixels than needed."""


class UnsupportedImageFormat(InputError, type="unsupported_image_format"):
    """The file is not in a supported image format."""


class GenerationError(ModelError, status=500, type="internal_server_error", retryable=True):
    """The model failed on this request."""


class RequestError(ServiceError):
    """The request was refused before any model saw it."""


class BadRequest(RequestError, status=400, type="bad_request"):
    """The request cannot be understood."""


class RequestInProgress(RequestError, status=400, type="request_in_progress"):
    """Request is still in progress"""


class IdempotencyConflict(RequestError, status=400, type="idempotency_conflict"):
    """This Idempotency-Key was used for another request."""


class Unauthorized(RequestError, status=401, type="unauthorized"):
    """Authentication is required to access this application."""

    def headers(self) -> Headers:
        return super().headers() | {"WWW-Authenticate": "Key"}


class Forbidden(RequestError, status=403, type="forbidden"):
    """This URL is not valid any more, or was changed."""


class NotFound(RequestError, status=404, type="not_found"):
    """Nothing is served at this path."""


class MethodNotAllowed(RequestError, status=405, type="method_not_allowed"):
    """This path does not accept this method."""


class PayloadTooLarge(RequestError, status=413, type="payload_too_large"):
    """The file is larger than this service stores."""


class RangeNotSatisfiable(RequestError, status=416, type="range_not_satisfiable"):
    """The file has no byte in this range."""

    size: int = 0

    @classmethod
    def of(cls, size: int) -> "RangeNotSatisfiable":
        """An error whose header gives the file's `size` in bytes."""
        error = cls()
        error.size = size
        return error

    def headers(self) -> Headers:
        return super().headers() | {"Content-Range": f"bytes */{self.size}"}


class ClientDisconnected(RequestError, status=499, type="client_disconnected"):
    """The caller hung up before the result was ready."""


class ClientCancelled(RequestError, status=499, type="client_cancelled"):
    """The request was cancelled by its caller."""


class InternalError(RequestError, status=500, type="internal_error", retryable=True):
    """Something went wrong on our side; the log has more under this request id."""


class RunnerDisconnected(RequestError, status=503, type="runner_disconnected", retryable=True):
    """The replica that worked on this request died, and so did those that tried again."""


class EngineStopped(RequestError, status=503, type="engine_stopped", retryable=True):
    """The engine that worked on this request has stopped; try again."""


class NotReady(RequestError, status=503, type="runner_scheduling_failure", retryable=True):
    """The service is starting or has lost a part; try again in a moment."""


class StoreUnavailable(RequestError, status=503, type="store_unavailable", retryable=True):
    """The queue cannot be reached at the moment; try again."""


class Overloaded(RequestError, status=429, type="concurrent_requests_limit", retryable=True):
    """More requests are waiting than can be served; try again after the time in Retry-After."""

    retry_after_s: float = 1.0

    @classmethod
    def after(cls, retry_after_s: float) -> Self:
        """An error that asks the client to wait `retry_after_s` seconds, rounded up."""
        error = cls()
        error.retry_after_s = retry_after_s
        return error

    def headers(self) -> Headers:
        seconds = max(1, -int(-self.retry_after_s // 1))
        return super().headers() | {"Retry-After": str(seconds)}


class QueueFull(Overloaded, type="queue_full"):
    """As many requests are queued as are allowed; try again after the time in Retry-After."""


class RateLimited(Overloaded, type="rate_limit_exceeded"):
    """This key begins more requests per second than it may; see Retry-After."""


class StartTimeout(RequestError, status=504, type="request_timeout"):
    """Processing did not start within the time given in X-Fal-Request-Timeout."""

    def headers(self) -> Headers:
        return super().headers() | {"X-Fal-Request-Timeout-Type": "user"}


class RequestTimeout(RequestError, status=504, type="request_timeout", retryable=True):
    """The request took longer than the service allows."""


class SetupError(Exception):
    """The service cannot start as it is set up: one line that says what to change."""


def fault(type_: str, loc: tuple[str | int, ...], msg: str, **ctx: Any) -> dict[str, Any]:
    """One item of `detail` for InvalidInput, with fal's documentation link."""
    item = {"loc": list(loc), "msg": msg, "type": type_, "url": DOCS_URL + type_}
    return item | ({"ctx": ctx} if ctx else {})
