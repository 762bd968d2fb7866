"""Without an exporter nothing is recorded; an exporter is checked for what it needs."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import SetupError
from deployments.settings import TracingSettings
from deployments.telemetry.tracing import (
    OFF,
    check_tracing,
    fail,
    open_tracer,
    set_attributes,
    traceparent,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_an_exporter_nothing_is_traced() -> None:
    """A span takes everything; there is no trace to go on with, not even the caller's."""
    tracer = open_tracer(TracingSettings(), "Ingress")
    with tracer.span("run", PARENT, "server", status=200) as span:
        set_attributes(span, status=500)
        fail(span, ValueError())
        assert traceparent(span) == ""
    assert not span.is_recording()
    tracer.past("fetch", PARENT, 1.0)
    tracer.close()
    assert tracer is OFF


def test_without_an_exporter_errors_go_on_their_way() -> None:
    """A span holds nothing up."""
    with pytest.raises(KeyError), OFF.span("run"):
        raise KeyError("x")


def test_without_an_exporter_the_sdk_is_not_loaded() -> None:
    """What is not used takes neither time nor memory."""
    script = (
        "import sys; from deployments.settings import TracingSettings;"
        "from deployments.telemetry.tracing import check_tracing, open_tracer;"
        "check_tracing(TracingSettings()); open_tracer(TracingSettings(), 'Ingress');"
        "print(*(name for name in sys.modules if name.startswith('opentelemetry.sdk')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == []


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, before anything is started."""
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("opentelemetry.exporter.otlp"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    settings = TracingSettings(exporter="otlp")
    with pytest.raises(SetupError, match="make install-otlp in the checkout"):
        check_tracing(settings)
    with pytest.raises(SetupError, match=r"setting tracing.exporter: otlp is not installed"):
        open_tracer(settings, "Ingress")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """In one line that says what to change."""
    (tmp_path / "file").write_text("")
    settings = TracingSettings(exporter="file", folder=str(tmp_path / "file" / "traces"))
    with pytest.raises(SetupError, match=r"setting tracing.folder: .* name another folder"):
        check_tracing(settings)


def test_a_check_leaves_no_file(tmp_path: Path) -> None:
    """It only makes the folder."""
    check_tracing(TracingSettings(exporter="file", folder=str(tmp_path / "traces")))
    assert list((tmp_path / "traces").iterdir()) == []
