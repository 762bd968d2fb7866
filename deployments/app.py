"""The application: four boxes, wired once.

The classes are plain and are wrapped here, so that a replica imports only its own box:
an Ingress without torch takes half the memory.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.errors import SetupError
from deployments.florence.checkpoint import refuse_remote_code
from deployments.inference import Inference
from deployments.ingress import Ingress
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess
from deployments.settings import Settings, api_key_from_environment, hash_key, parse

Options = Mapping[str, Mapping[str, Any]]

NO_KEY = "no API key: set FLORENCE_API_KEY, or the SHA-256 of each key under keys.hashes"


def build(args: dict[str, Any]) -> Application:
    """The application for the settings in `args`, as Serve calls it.

    Raises:
        SetupError: a setting is wrong, or nobody could call the service.
    """
    return assemble(with_environment(parse(args)))


def assemble(settings: Settings, options: Options | None = None) -> Application:
    """The four boxes bound to each other; `options` are Serve's, by the name of the box.

    Serve itself lays the YAML's `deployments:` over an application that it deploys from a file.
    """
    refuse_remote_code(settings.model.path)

    def wrap(box: type) -> serve.Deployment:
        return serve.deployment(**(options or {}).get(box.__name__, {}))(box)

    preprocess = wrap(Preprocess).bind(settings)
    inference = wrap(Inference).bind(settings)
    postprocess = wrap(Postprocess).bind(settings)
    return wrap(Ingress).bind(settings, preprocess, inference, postprocess)


def with_environment(settings: Settings) -> Settings:
    """The settings with the key from the environment among the hashes.

    Raises:
        SetupError: there is no key at all.
    """
    key = api_key_from_environment()
    hashes = settings.keys.hashes + ((hash_key(key),) if key else ())
    if not hashes:
        raise SetupError(NO_KEY)
    keys = settings.keys.model_copy(update={"hashes": tuple(dict.fromkeys(hashes))})
    return settings.model_copy(update={"keys": keys})
