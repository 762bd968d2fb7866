"""A part of the Kubernetes API over real HTTP: objects that are read, listed and patched.

What is at a path in `forbidden` may not be read.

No schema, no admission, no watch: what has to be true of objects is tested against KubeRay's
definitions elsewhere.
"""

import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonpatch

Document = dict[str, Any]
NAMESPACE = re.compile(r"/namespaces/[^/]+/")
PLURALS = {"y": "ies", "s": "ses"}


class ApiServer:
    """Objects by their paths, such as `/api/v1/namespaces/inference/pods/florence-head`."""

    def __init__(self, objects: Iterable[Document] = ()) -> None:
        self.objects: dict[str, Document] = {}
        self.forbidden: set[str] = set()
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

    def below(self, path: str, selector: str = "") -> Document:
        """The objects right below a path, or below it in any namespace, that have the labels of
        `selector`, `a=b,c=d`.
        """
        wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
        with self._lock:
            items = [
                each
                for where, each in sorted(self.objects.items())
                if path in (parent := where.rpartition("/")[0], NAMESPACE.sub("/", parent))
                and wanted.items() <= each["metadata"].get("labels", {}).items()
            ]
            version = str(self._version)
        return {"kind": "List", "metadata": {"resourceVersion": version}, "items": items}

    def patch(self, path: str, patch: list[Document]) -> Document:
        """Change an object by a JSON patch.

        Raises:
            KeyError: there is no such object.
        """
        with self._lock:
            self._store(path, jsonpatch.apply_patch(self.objects[path], patch))
            return self.objects[path]

    def _store(self, path: str, document: Document) -> None:
        self._version += 1
        metadata = document["metadata"] | {"resourceVersion": str(self._version)}
        self.objects[path] = document | {"metadata": metadata}


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
            selector = parse_qs(parts.query).get("labelSelector", [""])[0]
            self.answer(200, found or server.below(parts.path, selector))

        def do_PATCH(self) -> None:
            """Of an object."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(200, server.patch(urlsplit(self.path).path, body))

        def refuse(self, status: int, reason: str) -> None:
            """In Kubernetes' words."""
            said = {"message": f"{urlsplit(self.path).path} is {reason}", "reason": reason}
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


def is_collection(path: str) -> bool:
    """Whether a path names a kind, and no object of it."""
    parts = path.strip("/").split("/")
    below = parts[2:] if parts[0] == "api" else parts[3:]
    return len(below) % 2 == 1
