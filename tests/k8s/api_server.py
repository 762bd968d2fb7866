"""A part of the Kubernetes API over real HTTP: objects that are read, listed, patched, applied
and deleted.

What is at a path in `forbidden` may not be read.
Of a RayService it keeps who applied which field, and refuses what would change a field of another
manager.

No validation, no admission, no watch: what has to be true of objects is tested against KubeRay's
definitions elsewhere.
"""

import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonpatch
import yaml

from tests.k8s.crds import schema_of
from tests.k8s.ownership import Path, defaulted, fields, written_back

Document = dict[str, Any]
NAMESPACE = re.compile(r"/namespaces/[^/]+/")
PLURALS = {"y": "ies", "s": "ses"}
OPERATOR = "kuberay-operator"
APPLY, JSON_PATCH = "application/apply-patch+yaml", "application/json-patch+json"
KINDS = {  # what `kubectl` may name, by group and version; a dot marks those without a namespace
    "v1": (
        "Pod Service ServiceAccount Secret ConfigMap PersistentVolumeClaim Event Namespace. Node."
    ),
    "apps/v1": "Deployment",
    "batch/v1": "Job",
    "policy/v1": "PodDisruptionBudget",
    "networking.k8s.io/v1": "NetworkPolicy Ingress",
    "gateway.networking.k8s.io/v1": "Gateway HTTPRoute",
    "monitoring.coreos.com/v1": "PodMonitor PrometheusRule",
    "ray.io/v1": "RayService RayCluster",
}
SHORT = {"PersistentVolumeClaim": "pvc"}


class Conflict(Exception):
    """An apply would change fields of other managers."""


class ApiServer:
    """Objects by their paths, such as `/api/v1/namespaces/inference/pods/florence-head`."""

    def __init__(self, objects: Iterable[Document] = ()) -> None:
        self.objects: dict[str, Document] = {}
        self.forbidden: set[str] = set()
        self.owners: dict[str, dict[Path, str]] = {}
        self.url = ""
        self._version = 0
        self._lock = threading.Lock()
        for each in objects:
            self.put(each)

    def put(self, document: Document) -> None:
        """Have an object, in the place of one of its name."""
        with self._lock:
            self._store(path_of(document), document)

    def delete(self, path: str) -> None:
        """Have it no more."""
        with self._lock:
            del self.objects[path]

    def get(self, path: str) -> Document | None:
        """The object at a path."""
        with self._lock:
            return self.objects.get(path)

    def below(self, path: str, selector: str = "", name: str = "") -> Document:
        """The objects right below a path, or below it in any namespace, that have the labels of
        `selector`, `a=b,c=d`, and the name, if one is given.
        """
        wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
        with self._lock:
            items = [
                each
                for where, each in sorted(self.objects.items())
                if path in (parent := where.rpartition("/")[0], NAMESPACE.sub("/", parent))
                and wanted.items() <= each["metadata"].get("labels", {}).items()
                and name in ("", each["metadata"]["name"])
            ]
            version = str(self._version)
        return {
            "kind": "List",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": version},
            "items": items,
        }

    def patch(self, path: str, patch: list[Document]) -> Document:
        """Change an object by a JSON patch.

        Raises:
            KeyError: there is no such object.
        """
        with self._lock:
            self._store(path, jsonpatch.apply_patch(self.objects[path], patch))
            return self.objects[path]

    def merge(self, path: str, patch: Document) -> Document:
        """Change an object by a merge patch: what is in it replaces what is there.

        Raises:
            KeyError: there is no such object.
        """
        with self._lock:
            self._store(path, merged(self.objects[path], patch))
            return self.objects[path]

    def apply(self, path: str, wanted: Document, manager: str, *, force: bool = False) -> Document:
        """Have the fields of `wanted`, which are the manager's from then on, and no longer those
        that it applied before.

        Raises:
            Conflict: some are another manager's, have other values, and `force` is not given.
        """
        schema = schema_of_spec(wanted["kind"])
        with self._lock:
            live = self.objects.get(path, {})
            owners = self.owners.setdefault(path, {})
            now = dict(fields(live.get("spec", {}), schema))
            applied = dict(fields(wanted.get("spec", {}), schema))
            taken = [
                field
                for field, value in applied.items()
                if now.get(field, value) != value and owners.get(field, manager) != manager
            ]
            if taken and not force:
                said = ", ".join(f".spec.{'.'.join(field)}" for field in taken)
                others = ", ".join(sorted({f'"{owners[field]}"' for field in taken}))
                raise Conflict(f"Apply failed with {len(taken)} conflict: with {others}: {said}")
            gone = {each for each, owner in owners.items() if owner == manager} - set(applied)
            kept = {each: owner for each, owner in owners.items() if each not in gone}
            self.owners[path] = kept | dict.fromkeys(applied, manager)
            if gone:
                live = live | {"spec": without(live["spec"], gone)}
            self._store(path, merged(live, wanted))
            return self.objects[path]

    def write_back(self, path: str) -> None:
        """What KubeRay's operator does when it adds its finalizer: it writes the whole object, and
        owns each field that is then another one.
        """
        with self._lock:
            live = self.objects[path]
            schema = schema_of_spec(live["kind"])
            spec = written_back(live["spec"], schema)
            before, after = dict(fields(live["spec"], schema)), dict(fields(spec, schema))
            changed = {field for field, value in after.items() if before.get(field) != value}
            self.owners[path] |= dict.fromkeys(changed, OPERATOR)
            metadata = live["metadata"] | {"finalizers": ["ray.io/rayservice-finalizer"]}
            self._store(path, live | {"spec": spec, "metadata": metadata})

    def _store(self, path: str, document: Document) -> None:
        self._version += 1
        metadata = document["metadata"] | {"resourceVersion": str(self._version)}
        stored = document | {"metadata": metadata}
        if schema := schema_of_spec(document["kind"]):
            stored["spec"] = defaulted(stored["spec"], schema)
        self.objects[path] = stored


def schema_of_spec(kind: str) -> Document:
    """What a definition says of the `spec` of a kind; nothing for those that are not applied."""
    found: Document = {}
    if kind == "RayService":
        found = schema_of("rayservices")["properties"]["spec"]
    return found


def merged(document: Document, patch: Document) -> Document:
    """An object with a patch over it; null takes an entry away."""
    kept = {name: value for name, value in document.items() if patch.get(name, "") is not None}
    return kept | {
        name: merged(kept.get(name) or {}, value) if isinstance(value, dict) else value
        for name, value in patch.items()
        if value is not None
    }


def without(value: Any, gone: Collection[Path], path: Path = ()) -> Any:
    """A value without some of its fields, and without what is empty then. Lists are kept: an apply
    replaces them.
    """
    if not isinstance(value, dict):
        return value
    below = {name: without(each, gone, (*path, name)) for name, each in value.items()}
    return {
        name: each
        for name, each in below.items()
        if (*path, name) not in gone and (each != {} or value[name] == {})
    }


def discovery() -> dict[str, Document]:
    """What the API says of itself, by path: `kubectl` asks it before it reads a kind by name."""
    found: dict[str, Document] = {"/api": {"kind": "APIVersions", "versions": ["v1"]}}
    groups = []
    for version, kinds in KINDS.items():
        resources = [
            {
                "name": plural(kind.rstrip(".")),
                "singularName": kind.rstrip(".").lower(),
                "kind": kind.rstrip("."),
                "namespaced": not kind.endswith("."),
                "shortNames": [SHORT[kind]] if kind in SHORT else [],
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            }
            for kind in kinds.split()
        ]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        found[root] = {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": resources,
        }
        if "/" in version:
            each = {"groupVersion": version, "version": version.partition("/")[2]}
            groups.append(
                {"name": version.partition("/")[0], "versions": [each], "preferredVersion": each}
            )
    found["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    roots = [root for root in found if root.count("/") > 1]
    found["/openapi/v3"] = {
        "paths": {root[1:]: {"serverRelativeURL": f"/openapi/v3{root}"} for root in roots}
    }
    return found | {f"/openapi/v3{root}": openapi(found[root]) for root in roots}


def openapi(resources: Document) -> Document:
    """That the server itself validates what is applied, so that clients need not."""
    group, _, version = resources["groupVersion"].rpartition("/")
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {
        f"/{each['name']}/{{name}}": {
            "patch": {
                "parameters": [parameter],
                "responses": {},
                "x-kubernetes-group-version-kind": {
                    "group": group,
                    "version": version,
                    "kind": each["kind"],
                },
            }
        }
        for each in resources["resources"]
    }
    info = {"title": "Kubernetes", "version": "1"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


def path_of(document: Document) -> str:
    """Where an object is."""
    version, metadata = document["apiVersion"], document["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    space = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{space}/{plural(document['kind'])}/{metadata['name']}"


def plural(kind: str) -> str:
    """A kind as paths have it."""
    lower = kind.lower()
    stem = lower[:-1] if lower.endswith(("y", "s")) else lower
    return stem + PLURALS.get(lower[-1], "s")


@contextmanager
def serving(server: ApiServer) -> Iterator[ApiServer]:
    """Answer HTTP on loopback inside the block; `url` says where."""

    class Handler(BaseHTTPRequestHandler):
        """Reads and patches."""

        def do_GET(self) -> None:
            """An object, or those below a path."""
            parts = urlsplit(self.path)
            found = server.get(parts.path)
            if parts.path in server.forbidden:
                self.refuse(403, "Forbidden")
                return
            if found is None and not is_collection(parts.path):
                self.refuse(404, "NotFound")
                return
            query = parse_qs(parts.query)
            selector = query.get("labelSelector", [""])[0]
            name = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
            self.answer(200, found or server.below(parts.path, selector, name))

        def do_PATCH(self) -> None:
            """Of an object, as its content type says; an apply may make it."""
            parts = urlsplit(self.path)
            kind, body = self.headers["Content-Type"], self.read()
            try:
                if kind == APPLY:
                    query = parse_qs(parts.query)
                    force = query.get("force") == ["true"]
                    manager = query["fieldManager"][0]
                    found = server.apply(parts.path, yaml.safe_load(body), manager, force=force)
                elif kind == JSON_PATCH:
                    found = server.patch(parts.path, json.loads(body))
                else:
                    found = server.merge(parts.path, json.loads(body))
            except KeyError:
                self.refuse(404, "NotFound")
            except Conflict as error:
                self.refuse(409, "Conflict", str(error))
            else:
                self.answer(200, found)

        def do_DELETE(self) -> None:
            """Of an object."""
            path = urlsplit(self.path).path
            self.read()
            try:
                server.delete(path)
            except KeyError:
                self.refuse(404, "NotFound")
            else:
                self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

        def read(self) -> bytes:
            """The body."""
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def refuse(self, status: int, reason: str, message: str = "") -> None:
            """In Kubernetes' words."""
            text = message or f"{urlsplit(self.path).path} is {reason}"
            said = {"message": text, "reason": reason}
            failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
            self.answer(status, failure | said)

        def answer(self, status: int, document: Document) -> None:
            """As JSON."""
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def kubeconfig(server: ApiServer, namespace: str) -> str:
    """How kubectl and Helm find it."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            ],
            "current-context": "test",
        }
    )


def is_collection(path: str) -> bool:
    """Whether a path names a kind, and no object of it."""
    parts = path.strip("/").split("/")
    below = parts[2:] if parts[0] == "api" else parts[3:]
    return len(below) % 2 == 1
