"""The family of errors: drawn as it is, in fal's words, and whole after a journey."""

import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from deployments import errors
from deployments.errors import (
    InputError,
    InvalidInput,
    ModelError,
    Overloaded,
    RequestError,
    ServiceError,
    SetupError,
    StartTimeout,
    Unauthorized,
    fault,
)


def drawn() -> dict[str, tuple[str, int | None]]:
    """The tree in the module's docstring: name → parent's name and its status."""
    found: dict[str, tuple[str, int | None]] = {}
    path: list[str] = []
    statuses: dict[str, int | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?: +(\d{3}))?", line):
            depth = len(match[1]) // 4
            name, status = match[2], match[3]
            path[depth:] = [name]
            parent = path[depth - 1] if depth else "Exception"
            statuses[name] = int(status) if status else statuses.get(parent)
            found[name] = parent, statuses[name]
    return found


def family() -> Iterator[type[Exception]]:
    """Every error class of the module."""
    for _, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, Exception) and cls.__module__ == errors.__name__:
            yield cls


def parent_of(cls: type[Exception]) -> str:
    """The next class above that the drawing shows; ModelError only shares code."""
    bases = [base.__name__ for base in cls.__mro__[1:] if base is not ModelError]
    return bases[0]


GATHERING = {ServiceError, ModelError, InputError, RequestError}
CONCRETE = [cls for cls in family() if issubclass(cls, ServiceError) and cls not in GATHERING]
each_error = pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)


def test_the_drawing_is_the_family() -> None:
    """Every class stands in the docstring's tree, once, under its own parent."""
    expected = {cls.__name__: parent_of(cls) for cls in family() if cls is not ModelError}
    assert expected == {name: parent for name, (parent, _) in drawn().items()}
    names = re.findall(r"^    [│├└─ ]*([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    assert len(set(names)) == len(names)


@each_error
def test_the_drawing_has_the_status(cls: type[ServiceError]) -> None:
    """The status of a class in the drawing is the one that is sent."""
    assert drawn()[cls.__name__][1] == cls.status


@each_error
def test_the_docstring_is_the_message(cls: type[ServiceError]) -> None:
    """An error without words of its own says what its class says, in one line."""
    message = cls().message
    assert inspect.getdoc(cls) == message
    assert len(message.splitlines()) == 1
    assert cls("other words").message == "other words"


@each_error
def test_an_error_has_a_distinct_name_for_programs(cls: type[ServiceError]) -> None:
    """fal's name is in snake case; only the two timeouts share one."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.type)
    same = {other.__name__ for other in CONCRETE if other.type == cls.type}
    assert same in ({cls.__name__}, {"StartTimeout", "RequestTimeout"})


@each_error
def test_the_headers_are_fals(cls: type[ServiceError]) -> None:
    """A client learns the type, and whether to try again, from the headers."""
    headers = cls().headers()
    assert headers["X-Fal-Error-Type"] == cls.type
    assert headers["X-Fal-Needs-Retry"] == ("1" if cls.retryable else "0")
    assert headers["X-Fal-Retryable"] == ("true" if cls.retryable else "false")
    assert all(isinstance(value, str) for value in headers.values())


@each_error
def test_the_body_is_fals(cls: type[ServiceError]) -> None:
    """Refusals carry a sentence and a type; the model's complaints are a list of faults."""
    error = cls("words")
    if issubclass(cls, RequestError):
        assert error.body() == {"detail": "words", "error_type": cls.type}
        return
    assert error.body() == {
        "detail": [
            {
                "loc": ["body", "image_url"],
                "msg": "words",
                "type": cls.type,
                "url": f"https://docs.fal.ai/errors/#{cls.type}",
            }
        ]
    }


def samples() -> Iterator[ServiceError]:
    """Each error, plain and with all that it can carry."""
    for cls in CONCRETE:
        yield cls()
        yield cls("words of its own")
        if issubclass(cls, ModelError):
            yield cls("words", loc=("body", "inputs", 2), max_bytes=5)
    yield Overloaded.after(12.5)
    yield errors.NotFound().with_hint("Did you mean this?")
    yield InvalidInput.of([fault("missing", ("body", "image_url"), "Field required")])


@pytest.mark.parametrize("error", list(samples()), ids=lambda error: type(error).__name__)
def test_an_error_survives_its_journey(error: ServiceError) -> None:
    """An error that crossed to another process says and carries what it did before."""
    arrived = pickle.loads(pickle.dumps(error))
    assert type(error) is type(arrived)
    assert vars(error) == vars(arrived)
    assert (error.message, error.body(), error.headers()) == (
        arrived.message,
        arrived.body(),
        arrived.headers(),
    )


def test_a_setup_error_survives_its_journey() -> None:
    """A replica's start can fail far from the operator."""
    assert str(pickle.loads(pickle.dumps(SetupError("no key")))) == "no key"


def test_a_hint_stands_beside_the_detail() -> None:
    """fal's clients read `detail`, which a hint leaves as it is."""
    for error in (errors.NotFound(), errors.FileTooLarge()):
        plain = error.body()
        assert error.with_hint("Do this.").body() == plain | {"hint": "Do this."}


def test_context_is_shown() -> None:
    """The numbers behind a complaint stand in `ctx`, its place in `loc`."""
    error = errors.FileTooLarge("Too large.", loc=("body", "mask"), max_bytes=5)
    [item] = error.items()
    assert item["loc"] == ["body", "mask"]
    assert item["ctx"] == {"max_bytes": 5}


def test_invalid_input_reports_every_fault() -> None:
    """All that pydantic found is reported at once."""
    faults = [fault("missing", ("body", "a"), "Field required"), fault("x", ("body",), "y", n=1)]
    assert InvalidInput.of(faults).body() == {"detail": faults}
    assert faults[1]["ctx"] == {"n": 1}


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30.0, "30")]
)
def test_retry_after_is_whole_seconds(seconds: float, expected: str) -> None:
    """The wait is rounded up, and never nothing."""
    assert Overloaded.after(seconds).headers()["Retry-After"] == expected


def test_special_headers() -> None:
    """A missing key is asked for; a caller's own timeout has a header of its own."""
    assert Unauthorized().headers()["WWW-Authenticate"] == "Key"
    assert StartTimeout().headers()["X-Fal-Request-Timeout-Type"] == "user"
    assert "X-Fal-Request-Timeout-Type" not in errors.RequestTimeout().headers()


def test_inputs_are_never_worth_a_retry() -> None:
    """The same input would be refused again."""
    found: list[Any] = [cls for cls in CONCRETE if issubclass(cls, InputError)]
    assert not any(cls.retryable for cls in found)
