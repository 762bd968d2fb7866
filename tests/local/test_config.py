"""The laptop's profile over the one configuration, and what `--set` lays over both."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import SetupError
from deployments.local.config import (
    LAPTOP,
    Profile,
    compose,
    merge,
    parse_sets,
    read_yaml,
    serve_config,
)
from deployments.settings import parse

keys = st.text("abcdef", min_size=1, max_size=3)
values = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers()))
trees = st.recursive(values, lambda below: st.dictionaries(keys, below, max_size=3), max_leaves=8)


def composed(http: dict[str, Any] | None = None, **args: Any) -> Profile:
    """The profile with settings and an address of its own."""
    return compose(args, {"host": "127.0.0.1", "port": 8000} | (http or {}))


def test_an_adapter_is_given_by_its_name() -> None:
    """Several stand side by side, and beside those of a file."""
    given = merge(
        {"model": {"adapters": {"old": "/a"}}},
        parse_sets(["model.adapters.invoices-2=./b", "model.adapters.forms=/c"]),
    )
    assert parse(given).model.adapters == {"old": "/a", "invoices-2": "./b", "forms": "/c"}


def test_a_laptop_gets_the_laptops_values() -> None:
    """The demo checkpoint on a CPU, in its own precision; the rest is as in production."""
    settings = composed().settings
    model = settings.model
    assert (model.path, model.device, model.dtype) == ("demo", "cpu", "auto")
    assert settings.inference.max_batch_size == 8
    [application] = read_yaml(serve_config())["applications"]
    assert parse(application["args"]).inference.max_wait_ms == settings.inference.max_wait_ms


def test_a_laptop_has_one_replica_of_each_box() -> None:
    """No autoscaling, no claim on CPUs or GPUs; the other options are production's."""
    options = composed().options
    assert set(options) == {"Ingress", "Preprocess", "Inference", "Postprocess", "Dispatcher"}
    for deployment in options.values():
        assert deployment["num_replicas"] == 1
        assert "autoscaling_config" not in deployment
        assert deployment["ray_actor_options"]["num_cpus"] == 0
    assert options["Inference"]["ray_actor_options"]["num_gpus"] == 0
    [application] = read_yaml(serve_config())["applications"]
    [production] = [
        deployment for deployment in application["deployments"] if deployment["name"] == "Inference"
    ]
    assert options["Inference"]["max_ongoing_requests"] == production["max_ongoing_requests"]


def test_a_laptop_listens_on_loopback() -> None:
    """Nothing is open beyond this machine unless asked for."""
    profile = compose({}, {})
    assert profile.http["host"] == "127.0.0.1"
    assert (
        profile.http["request_timeout_s"]
        == read_yaml(serve_config())["http_options"]["request_timeout_s"]
    )


def test_what_the_user_says_comes_last() -> None:
    """Settings and address of the command line stand over both files."""
    profile = composed({"host": "0.0.0.0", "port": 9000}, model={"device": "cuda"})
    assert profile.settings.model.device == "cuda"
    assert profile.settings.model.path == "demo"
    assert (profile.http["host"], profile.http["port"]) == ("0.0.0.0", 9000)


def test_a_wrong_setting_is_refused_with_its_path() -> None:
    """The line names what the user wrote."""
    with pytest.raises(SetupError, match=r"setting inference\.batch: "):
        composed(inference={"batch": 3})


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 1}, "http://127.0.0.1:1"),
        ({"host": "::"}, "http://127.0.0.1:8000"),
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"host": "example.org"}, "http://example.org:8000"),
        ({"ssl_certfile": "a", "ssl_keyfile": "b"}, "https://127.0.0.1:8000"),
    ],
)
def test_the_base_url_can_be_called(http: dict[str, Any], expected: str) -> None:
    """An address that means every interface is shown as one that can be called."""
    assert expected == composed(http).base_url


def test_the_files_are_not_changed_by_composing() -> None:
    """Two profiles do not share what they are made of."""
    first, second = composed(), composed()
    first.options["Inference"]["ray_actor_options"]["num_gpus"] = 1
    assert second.options["Inference"]["ray_actor_options"]["num_gpus"] == 0


@given(tree=trees)
def test_a_tree_over_itself_is_itself(tree: Any) -> None:
    """Laying the same over again changes nothing."""
    assert tree == merge(tree, tree)


@given(
    below=st.dictionaries(keys, trees, max_size=4), above=st.dictionaries(keys, trees, max_size=4)
)
def test_the_upper_tree_wins(below: dict[str, Any], above: dict[str, Any]) -> None:
    """What only one says stays; what both say is the upper's, and mappings are merged."""
    found = merge(below, above)
    assert set(found) == set(below) | set(above)
    for key in found:
        if key not in above:
            assert found[key] == below[key]
        elif not (isinstance(above[key], dict) and isinstance(below.get(key), dict)):
            assert found[key] == above[key]
        else:
            assert found[key] == merge(below[key], above[key])


def test_named_things_are_merged_by_name() -> None:
    """A list of deployments is laid over by name, in the lower one's order."""
    below = [{"name": "a", "x": 1, "y": 1}, {"name": "b", "x": 2}]
    above = [{"name": "b", "x": 3}, {"name": "a", "y": 4}, {"name": "c"}]
    expected = [{"name": "a", "x": 1, "y": 4}, {"name": "b", "x": 3}, {"name": "c"}]
    found = merge(below, above)
    assert sorted(found, key=lambda thing: thing["name"]) == expected


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([], {}),
        (["a.b=1"], {"a": {"b": 1}}),
        (["a.b=1", "a.c=x"], {"a": {"b": 1, "c": "x"}}),
        (["a.b=1", "a.b=2"], {"a": {"b": 2}}),
        (["a=[80, 443]"], {"a": [80, 443]}),
        (["a=true"], {"a": True}),
        (["a=null"], {"a": None}),
        (["a="], {"a": None}),
        (["a=x=y"], {"a": "x=y"}),
        (['a="1"'], {"a": "1"}),
        (["a={b: 1}", "a.c=2"], {"a": {"b": 1, "c": 2}}),
    ],
)
def test_settings_on_the_command_line(sets: list[str], expected: dict[str, Any]) -> None:
    """PATH=VALUE is a path of keys and a value of YAML; later ones win."""
    assert expected == parse_sets(sets)


@pytest.mark.parametrize("text", ["", "a", "a.b", "=1", ".=1", "..=1"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    """The line shows how to write one."""
    with pytest.raises(SetupError, match="write PATH=VALUE"):
        parse_sets([text])


@pytest.mark.parametrize("value", ["[", "'", "{a: ", "@", "2020-13-45", "0x_", "!!python/none x"])
def test_a_value_that_yaml_cannot_read_is_refused(value: str) -> None:
    """The line says what was written and what to do."""
    with pytest.raises(SetupError, match="put it in quotes"):
        parse_sets([f"a={value}"])


@given(text=st.text(max_size=30))
def test_nothing_else_can_go_wrong(text: str) -> None:
    """Any text is a setting or refused as one."""
    with suppress(SetupError):
        parse(parse_sets([text]))


def test_the_laptops_file_only_changes_what_is_there() -> None:
    """Its application and its deployments are those of serve_config.yaml."""
    [below], [above] = (read_yaml(file)["applications"] for file in (serve_config(), LAPTOP))
    assert below["name"] == above["name"]
    assert [deployment["name"] for deployment in below["deployments"]] == [
        deployment["name"] for deployment in above["deployments"]
    ]


def test_several_values_have_commas_between() -> None:
    """Of a setting that takes several; a list in YAML's own form is one, too."""
    for text, expected in (
        ("preprocess.allowed_hosts=a.example, b.example", ("a.example", "b.example")),
        ("preprocess.allowed_hosts=a.example", ("a.example",)),
        ("preprocess.allowed_hosts=[a.example]", ("a.example",)),
        ("preprocess.allowed_ports=80,8080", (80, 8080)),
        ("preprocess.allowed_ports=8080", (8080,)),
    ):
        section, name = text.partition("=")[0].split(".")
        assert getattr(getattr(parse(parse_sets([text])), section), name) == expected
