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

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """The sentence for the client."""
        return str(self.args[0])

    def body(self) -> dict[str, Any]:
        """The JSON body in fal's shape."""
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
        """What is wrong, one item for each fault."""
        item: dict[str, Any] = {
            "loc": list(self.loc),
            "msg": self.message,
            "type": self.type,
            "url": DOCS_URL + self.type,
        }
        return [item | ({"ctx": self.ctx} if self.ctx else {})]

    def body(self) -> dict[str, Any]:
        return {"detail": self.items()}


class InputError(ModelError):
    """The input cannot be used."""

    status = 422
    type = "value_error"


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


class FileDownloadError(InputError):
    """Failed to download the file. Please check if the URL is accessible and try again."""

    type = "file_download_error"


class FileTooLarge(InputError):
    """The file is larger than allowed."""

    type = "file_too_large"


class ImageLoadError(InputError):
    """Failed to load the image. Please ensure that the file is a valid, uncorrupted image."""

    type = "image_load_error"


class ImageTooLarge(InputError):
    """The image has more pixels than allowed."""

    type = "image_too_large"


class ImageTooSmall(InputError):
    """The image has fewer pixels than needed."""

    type = "image_too_small"


class UnsupportedImageFormat(InputError):
    """The file is not in a supported image format."""

    type = "unsupported_image_format"


class GenerationError(ModelError):
    """The model failed on this request."""

    status = 500
    type = "internal_server_error"
    retryable = True


class RequestError(ServiceError):
    """The request was refused before any model saw it."""


class BadRequest(RequestError):
    """The request cannot be understood."""

    status = 400
    type = "bad_request"


class RequestInProgress(RequestError):
    """Request is still in progress"""

    status = 400
    type = "request_in_progress"


class IdempotencyConflict(RequestError):
    """This Idempotency-Key was used for another request."""

    status = 400
    type = "idempotency_conflict"


class Unauthorized(RequestError):
    """Authentication is required to access this application."""

    status = 401
    type = "unauthorized"

    def headers(self) -> Headers:
        return super().headers() | {"WWW-Authenticate": "Key"}


class Forbidden(RequestError):
    """This URL is not valid any more, or was changed."""

    status = 403
    type = "forbidden"


class NotFound(RequestError):
    """Nothing is served at this path."""

    status = 404
    type = "not_found"


class MethodNotAllowed(RequestError):
    """This path does not accept this method."""

    status = 405
    type = "method_not_allowed"


class PayloadTooLarge(RequestError):
    """The file is larger than this service stores."""

    status = 413
    type = "payload_too_large"


class RangeNotSatisfiable(RequestError):
    """The file has no byte in this range."""

    status = 416
    type = "range_not_satisfiable"
    size: int = 0

    @classmethod
    def of(cls, size: int) -> "RangeNotSatisfiable":
        """An error that tells the client the file's `size`."""
        error = cls()
        error.size = size
        return error

    def headers(self) -> Headers:
        return super().headers() | {"Content-Range": f"bytes */{self.size}"}


class ClientDisconnected(RequestError):
    """The caller hung up before the result was ready."""

    status = 499
    type = "client_disconnected"


class ClientCancelled(RequestError):
    """The request was cancelled by its caller."""

    status = 499
    type = "client_cancelled"


class InternalError(RequestError):
    """Something went wrong on our side; the log has more under this request id."""

    status = 500
    type = "internal_error"
    retryable = True


class RunnerDisconnected(RequestError):
    """The replica that worked on this request died, and so did those that tried again."""

    status = 503
    type = "runner_disconnected"
    retryable = True


class NotReady(RequestError):
    """The service is starting or has lost a part; try again in a moment."""

    status = 503
    type = "runner_scheduling_failure"
    retryable = True


class StoreUnavailable(RequestError):
    """The queue cannot be reached at the moment; try again."""

    status = 503
    type = "store_unavailable"
    retryable = True


class Overloaded(RequestError):
    """More requests are waiting than can be served; try again after the time in Retry-After."""

    status = 429
    type = "concurrent_requests_limit"
    retryable = True
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


class QueueFull(Overloaded):
    """As many requests are queued as are allowed; try again after the time in Retry-After."""

    type = "queue_full"


class RateLimited(Overloaded):
    """This key begins more requests per second than it may; see Retry-After."""

    type = "rate_limit_exceeded"


class StartTimeout(RequestError):
    """Processing did not start within the time given in X-Fal-Request-Timeout."""

    status = 504
    type = "request_timeout"

    def headers(self) -> Headers:
        return super().headers() | {"X-Fal-Request-Timeout-Type": "user"}


class RequestTimeout(RequestError):
    """The request took longer than the service allows."""

    status = 504
    type = "request_timeout"
    retryable = True


class SetupError(Exception):
    """The service cannot start as it is set up: one line that says what to change."""


def fault(type_: str, loc: tuple[str | int, ...], msg: str, **ctx: Any) -> dict[str, Any]:
    """One item of `detail` for InvalidInput, with fal's documentation link."""
    item = {"loc": list(loc), "msg": msg, "type": type_, "url": DOCS_URL + type_}
    return item | ({"ctx": ctx} if ctx else {})
