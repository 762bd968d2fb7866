"""`florence usage`: everything that was used, once, by day, key and endpoint."""

import csv
import io
import json
from pathlib import Path

import pytest

from deployments.cli.options import run_with_store
from deployments.jobs.access import Access
from deployments.jobs.api_key import ApiKey, Usage
from deployments.jobs.store import Store
from tests.cli.conftest import Florence

USED = (
    Usage(key_id="b2", day="2030-01-02", path="caption", requests=1, images=1, model_s=0.25),
    Usage(key_id="a1", day="2030-01-01", path="ocr", requests=2, images=1, model_s=1.0),
    Usage(key_id="a1", day="2030-01-02", path="caption", requests=1000, images=900, model_s=10.5),
    Usage(key_id="a1", day="2000-01-01", path="caption", requests=4, images=4, model_s=0.0004),
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store in which two keys have been at work, one of them a key of the settings."""
    url = f"sqlite:///{tmp_path / 'used.db'}"

    async def fill(store: Store) -> None:
        await store.add_key(ApiKey(id="a1", hash="h", name="[b]anna"))
        await store.add_usage(USED)

    run_with_store(url, fill, Access.MIGRATE)
    return url


def test_usage_is_a_table_with_totals(florence: Florence, url: str) -> None:
    """A line for each day, key and endpoint in this order; the sums stand below."""
    left = florence("usage", "--store", url)
    lines = [line.split() for line in left.out.splitlines() if any(map(str.isdigit, line))]
    assert left.code == 0
    assert [[word for word in line if word != "│"] for line in lines] == [
        ["2000-01-01", "a1", "[b]anna", "caption", "4", "4", "0.0"],
        ["2030-01-01", "a1", "[b]anna", "ocr", "2", "1", "1.0"],
        ["2030-01-02", "a1", "[b]anna", "caption", "1,000", "900", "10.5"],
        ["2030-01-02", "b2", "caption", "1", "1", "0.2"],
        ["total", "1,007", "906", "11.8"],
    ]


def test_usage_is_json_for_programs(florence: Florence, url: str) -> None:
    """Rows and totals, seconds to the millisecond."""
    shown = json.loads(florence("usage", "--json", "--key", "b2", "--store", url).out)
    row = {
        "day": "2030-01-02",
        "key": "b2",
        "name": "",
        "endpoint": "caption",
        "requests": 1,
        "images": 1,
        "model_s": 0.25,
    }
    assert shown == {"usage": [row], "total": {"requests": 1, "images": 1, "model_s": 0.25}}


def test_usage_is_csv_for_spreadsheets(florence: Florence, url: str) -> None:
    """A header and the rows, without totals."""
    rows = list(csv.DictReader(io.StringIO(florence("usage", "--csv", "--store", url).out)))
    assert [row["requests"] for row in rows] == ["4", "2", "1000", "1"]
    assert list(rows[0]) == ["day", "key", "name", "endpoint", "requests", "images", "model_s"]


@pytest.mark.parametrize(
    ("since", "expected"),
    [("2030-01-02", ["2030-01-02"]), ("7d", ["2030-01-01", "2030-01-02"])],
)
def test_usage_begins_with_a_day(
    florence: Florence, url: str, since: str, expected: list[str]
) -> None:
    """A date, or some days before today."""
    shown = json.loads(florence("usage", "--json", "--since", since, "--store", url).out)
    assert expected == sorted({row["day"] for row in shown["usage"]})


def test_nothing_used_is_said(florence: Florence, url: str) -> None:
    """An empty table would look like a fault; programs get an empty list."""
    words = ("usage", "--key", "unknown", "--store", url)
    assert florence(*words).out == "Nothing has been used.\n"
    assert json.loads(florence(*words, "--json").out)["usage"] == []
    assert florence(*words, "--csv").out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--since", "yesterday"], "yesterday is no time: write YYYY-MM-DD"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(
    florence: Florence, url: str, words: list[str], line: str
) -> None:
    """Exit code 2, and what to change."""
    left = florence("usage", *words, "--store", url)
    assert (left.code, left.out, left.err.count("\n")) == (2, "", 1)
    assert line in left.err
