"""What is looked at: the settings of a service on this machine, or those of a Serve config."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from deployments.errors import SetupError
from deployments.local.profile import Tree, compose, merge, read_yaml
from deployments.local.state import StateFolder
from deployments.settings import Settings, parse, with_environment


@dataclass(frozen=True)
class Subject:
    """Settings, and what to make of things that are missing.

    `is_laptop`: `florence serve` makes them at its first start.
    `is_elsewhere`: the service runs on other machines, which have its GPU, its Ray and its disks.
    `load`: also a large model is to be loaded.
    """

    settings: Settings
    is_laptop: bool = True
    is_elsewhere: bool = False
    load: bool = False


def settings_here(folder: Path, given: Tree) -> Settings:
    """Those that `florence serve` would have, with this state folder; nothing is made in it.

    Raises:
        SetupError: a setting is wrong.
    """
    state = StateFolder(folder, make=False)
    own = state.settings | {"keys": {"hashes": state.kept_hashes()}}
    return with_environment(compose(merge(own, given), {}).settings)


def settings_of(file: Path, given: Tree) -> Settings:
    """Those that Ray Serve would have, with this config and this environment.

    Raises:
        SetupError: there is no such config, or a setting is wrong.
    """
    return with_environment(parse(merge(args_in(file), given)))


def args_in(file: Path) -> Tree:
    """The settings in a Serve config.

    Raises:
        SetupError: there are none.
    """
    try:
        args: Tree = read_yaml(file)["applications"][0].get("args") or {}
    except OSError as error:
        raise SetupError(f"cannot read {file} ({error.strerror}): give --config a file") from None
    except (yaml.YAMLError, LookupError, TypeError, AttributeError):
        raise SetupError(f"{file} is no Serve config: give --config a serve_config.yaml") from None
    return args
