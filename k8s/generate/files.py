"""Every file below k8s/ that is made of others, with the text that it should have."""

import json
from collections.abc import Iterator
from pathlib import Path

from deployments.local.config import serve_config
from k8s.generate.dashboard import DASHBOARD, dashboard
from k8s.generate.helm import CHART
from k8s.generate.manifests import manifests
from k8s.generate.readme import README, readme
from k8s.generate.schema import schema

CONFIG = CHART / "files" / "serve_config.yaml"
SCHEMA = CHART / "values.schema.json"


def files() -> Iterator[tuple[Path, str]]:
    """Each file with its text. The order matters: manifests are made with the others."""
    yield CONFIG, serve_config().read_text()
    yield SCHEMA, json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    yield README, readme()
    yield DASHBOARD, dashboard()
    yield from manifests()
