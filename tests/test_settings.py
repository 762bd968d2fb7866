"""The tree of settings: strict, frozen, described, and the only reader of the environment."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import deployments
from deployments.settings import (
    Settings,
    api_key_from_environment,
    hash_key,
    parse,
    state_home,
)
from tests.refusal import refusal_of

PACKAGE = Path(deployments.__file__).parent
MAY_TOUCH_ENVIRONMENT = {
    "settings.py",
    "local/launch.py",  # sets it for Ray's processes
    "cli/doctor/exposure.py",  # reads that of other processes
}


def fields(section: type[BaseModel] = Settings, at: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its path."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{at}{name}.")
        else:
            yield f"{at}{name}", field


def sections() -> list[BaseModel]:
    """The tree's parts, and the tree."""
    tree = Settings()
    return [tree, *(getattr(tree, name) for name in Settings.model_fields)]


def refusal(tree: Any) -> str:
    """Why `tree` is refused, in one line."""
    return refusal_of(parse, tree)


def test_nothing_set_is_the_defaults() -> None:
    """An empty tree is valid."""
    assert parse({}) == Settings()


@pytest.mark.parametrize("section", ["", *Settings.model_fields])
def test_an_unknown_key_is_refused_with_its_path(section: str) -> None:
    """A misspelt setting is never ignored."""
    tree = {section: {"no_such_setting": 1}} if section else {"no_such_setting": 1}
    path = f"{section}.no_such_setting".lstrip(".")
    assert f"setting {path}: there is none of this name" in refusal(tree)


def test_every_fault_is_listed_at_once() -> None:
    """Who has three settings wrong learns of three."""
    line = refusal({"model": {"device": "tpu"}, "inference": {"max_queue": 0, "num_beams": "x"}})
    assert all(
        f"setting {path}: " in line
        for path in ("model.device", "inference.max_queue", "inference.num_beams")
    )


@pytest.mark.parametrize("tree", [None, [], "model", 3])
def test_what_is_no_tree_is_refused(tree: Any) -> None:
    """A YAML that holds something else is refused."""
    assert refusal(tree)


@pytest.mark.parametrize("section", Settings.model_fields)
@pytest.mark.parametrize("value", [None, [], "words", 3])
def test_what_is_no_section_is_refused(section: str, value: Any) -> None:
    """A section is a mapping."""
    assert f"setting {section}: " in refusal({section: value})


@pytest.mark.parametrize(
    ("path", "field"), list(fields()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_setting_is_described(path: str, field: FieldInfo) -> None:
    """A sentence says what each setting is for."""
    description = field.description or ""
    assert description[:1].isupper()
    assert description.endswith(".")
    assert "\n" not in description


@pytest.mark.parametrize("section", sections(), ids=lambda section: type(section).__name__)
def test_every_section_is_frozen(section: BaseModel) -> None:
    """A setting cannot be changed after it was checked."""
    name = next(iter(type(section).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, name, getattr(section, name))


@pytest.mark.parametrize("section", sections(), ids=lambda section: type(section).__name__)
def test_no_value_can_be_changed_in_place(section: BaseModel) -> None:
    """A tree can be hashed, so it holds no list or dict."""
    assert isinstance(hash(section), int)


def test_the_tree_survives_being_written_down() -> None:
    """Settings that were dumped as JSON are the same settings again."""
    sections = {"keys": {"hashes": ["a"]}, "preprocess": {"allowed_hosts": ["h"]}}
    tree = parse(sections | {"model": {"adapters": {"invoices-2_a": "folder", "0": "other"}}})
    assert hash(tree) == hash(parse(tree.model_dump()))
    assert tree == parse(tree.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.path", ""),
        ("model.dtype", "int8"),
        ("model.adapters", {"Invoices": "folder"}),
        ("model.adapters", {"-a": "folder"}),
        ("model.adapters", {"a" * 65: "folder"}),
        ("model.adapters", {"base": "folder"}),
        ("model.adapters", {"invoices": ""}),
        ("model.adapters", "folder"),
        ("ingress.deadline_s", 0),
        ("ingress.deadline_s", float("nan")),
        ("ingress.max_attempts", 0),
        ("preprocess.max_bytes", -1),
        ("preprocess.allowed_ports", "http"),
        ("inference.max_batch_size", 0),
        ("inference.max_wait_ms", -1),
        ("inference.max_wait_ms", 5000),
        ("postprocess.jpeg_quality", 100),
        ("files.root", ""),
    ],
)
def test_values_out_of_range_are_refused(path: str, value: Any) -> None:
    """What could not work is refused before anything starts."""
    section, name = path.split(".")
    assert f"setting {path}" in refusal({section: {name: value}})


def touches_environment(file: Path) -> bool:
    """Whether a module reaches for the process's environment."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: set[str] = set()
        if isinstance(node, ast.Attribute):
            names = {node.attr}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
        if names & {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}:
            return True
    return False


def test_the_environment_is_read_in_one_place() -> None:
    """Only the settings read it, and only the local service sets it."""
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if touches_environment(file)
    }
    assert users == MAY_TOUCH_ENVIRONMENT


@pytest.mark.parametrize(("value", "expected"), [(" key \n", "key"), ("  ", None), ("", None)])
def test_the_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str | None
) -> None:
    """White space around it is no part of it, and nothing is no key."""
    monkeypatch.setenv("FLORENCE_API_KEY", value)
    assert expected == api_key_from_environment()


def test_no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable need not be set."""
    monkeypatch.delenv("FLORENCE_API_KEY", raising=False)
    assert api_key_from_environment() is None


def test_state_is_kept_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_STATE_HOME moves the folder; without it the home has one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_home() == tmp_path / "florence"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_home() == tmp_path / ".local" / "state" / "florence"


@given(key=st.text(min_size=1))
def test_a_hash_is_hex_and_hides_the_key(key: str) -> None:
    """A hash is 64 hex digits, always the same, for any key."""
    hashed = hash_key(key)
    assert (64, hashed) == (len(hashed), hash_key(key))
    assert set(hashed) <= set("0123456789abcdef")


def test_a_hash_is_sha256() -> None:
    """An operator can make it with `sha256sum`."""
    expected = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"
    assert expected == hash_key("key")
