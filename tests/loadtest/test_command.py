"""The command line: what is wrong is one line with the remedy and exit code 2, before any load."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from loadtest.__main__ import main
from tests.loadtest.server import serving


class Refusing(BaseHTTPRequestHandler):
    """Takes no key, and counts what it is asked."""

    num_posts = 0

    def do_GET(self) -> None:
        self.send_response(401 if "key" in self.headers["Authorization"] else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        Refusing.num_posts += 1
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that is no service of ours."""
    with serving(Refusing) as url:
        yield url


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORENCE_API_KEY", raising=False)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command refuses these arguments with."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stedy"], "choose from"),
        (["steady", "--rate", "0"], "write a number above 0"),
        (["steady", "--duration", "long"], "write 500ms, 2.5s, 10m or 1h"),
        (["steady", "--max-error-rate", "few"], "write a number such as 0.01"),
        (["steady", "--frobnicate"], "--frobnicate"),
        (["steady", "--processes", "0"], "whole number from 1 on"),
        (["steady", "--arrivals", "never"], "--arrivals"),
        (["steady", "--images", "/absent"], "no such folder"),
        (["steady", "--rate", "100000", "--duration", "24h"], "a lower --rate"),
        (["steady", "--url", "http://127.0.0.1:1"], "give --key"),
        (["steady", "--url", "florence", "--key", "a"], "https://florence.example.com"),
        (["steady", "--url", "http://127.0.0.1:1", "--key", "a"], "no service answers"),
        (["steady", "--url", "http://h", "--key", "a", "--haproxy"], "leave --url out"),
        (["steady", "--expect", "2"], "--expect needs --url"),
        (["webhooks", "--url", "http://h", "--key", "a"], "--receiver HOST:PORT"),
        (["webhooks", "--receiver", "8090"], "no HOST:PORT"),
        (["steady", "--join", "127.0.0.1"], "--join needs a key"),
        (["steady", "--out", "/proc/none"], "--out /proc/none cannot be made"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in " ".join(said(arguments, capsys).split())


def test_an_empty_folder_of_images_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()

    assert "the folder is empty" in said(["steady", "--images", "images"], capsys)


@pytest.mark.parametrize(
    ("key", "words"), [("a-key", "refuses the key (401)"), ("other", "check --url")]
)
def test_a_refused_key_and_another_service_are_found_before_any_load(
    key: str, words: str, refusing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said(["steady", "--url", refusing, "--key", key], capsys)
    assert Refusing.num_posts == 0
