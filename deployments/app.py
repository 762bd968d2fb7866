"""The application: five deployments, wired once.

The classes are plain and are wrapped here, so that a replica imports only its own class:
an Ingress without torch takes half the memory.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.dispatcher import Dispatcher
from deployments.florence.checkpoint import refuse_remote_code
from deployments.inference import Inference, end_process
from deployments.ingress import Ingress
from deployments.jobs.sqlite.owner_actor import refuse_many_nodes
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess
from deployments.settings import Settings, parse, with_environment
from deployments.telemetry.tracing import check_tracing

Options = Mapping[str, Mapping[str, Any]]


def build(args: dict[str, Any]) -> Application:
    """The application for the settings in `args`, as Serve calls it.

    Raises:
        SetupError: a setting is wrong.
    """
    return assemble(with_environment(parse(args)))


def assemble(settings: Settings, options: Options | None = None) -> Application:
    """The five deployments bound to each other; `options` are Serve's, by the deployment's name.

    Serve itself lays the YAML's `deployments:` over an application that it deploys from a file.
    """
    refuse_remote_code(settings.model.path)
    refuse_many_nodes(settings.store)
    check_tracing(settings.tracing)

    def wrap(deployment: type) -> serve.Deployment:
        return serve.deployment(**(options or {}).get(deployment.__name__, {}))(deployment)

    preprocess = wrap(Preprocess).bind(settings)
    inference = wrap(Inference).bind(settings, on_failure=end_process)
    postprocess = wrap(Postprocess).bind(settings)
    dispatcher = wrap(Dispatcher).bind(settings, preprocess, inference, postprocess)
    return wrap(Ingress).bind(settings, preprocess, inference, postprocess, dispatcher)
