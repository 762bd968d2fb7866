"""Every setting of the service: one frozen tree, checked once, passed down in slices.

`serve_config.yaml` holds the tree under `args:`; Serve gives it to `deployments.app:build`.
A key that does not exist is refused with its path.
This is the only module that reads the environment.
"""

import hashlib
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from deployments.errors import SetupError

MIB = 1024 * 1024
DEMO_CHECKPOINT = Path(__file__).parent / "demo" / "checkpoint"
BASE = "base"  # in place of an adapter's name: the model without any


class Section(BaseModel):
    """A frozen part of the tree that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class AdapterFolders(dict[str, str]):
    """The folder of each adapter by its name. Nobody changes it, so it can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def named(folders: dict[str, str]) -> AdapterFolders:
    """The same, if no adapter has the name that stands for none."""
    if BASE in folders:
        raise PydanticCustomError("adapter_name", "an adapter cannot be called base")
    return AdapterFolders(folders)


AdapterName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]


class ModelSettings(Section):
    """The checkpoint and its device."""

    path: str = Field(
        "florence-community/Florence-2-large",
        min_length=1,
        description="A folder with a checkpoint, `demo`, or a hub id of transformers' own format.",
    )
    revision: str = Field(
        "main", min_length=1, description="The commit or branch of a hub id; pin it in production."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model runs; `auto` takes a GPU when there is one."
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Precision; `auto` is float32 on a CPU and float16 on a GPU."
    )
    torch_threads: int = Field(
        1,
        ge=1,
        le=256,
        description="CPU threads of one model; more threads than cores slow it down.",
    )
    adapters: Annotated[
        dict[AdapterName, Annotated[str, Field(min_length=1)]], AfterValidator(named)
    ] = Field(
        default_factory=AdapterFolders,
        description="LoRA adapters that requests may name: the folder of each in PEFT's layout.",
    )
    own_cores: bool = Field(
        False, description="Reserve the model's cores for it; for one machine without a GPU."
    )
    accept_missing_rules: bool = Field(
        False,
        description="Serve a checkpoint that does not say how its answers begin and end.",
    )
    check_answer: bool = Field(
        True,
        description="Refuse a model that answers a drawn picture with one token over and over.",
    )


class IngressSettings(Section):
    """HTTP: limits and origins."""

    max_body_bytes: int = Field(
        32 * MIB,
        ge=1024,
        description="Largest request body; a data URI is a third larger than its file.",
    )
    deadline_s: float = Field(
        120.0, gt=0, description="Longest time of a synchronous run; after it the client gets 504."
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts at a run whose replicas die.")
    max_running: int = Field(
        256, ge=1, description="Runs at a time in one Ingress replica; further ones get 429."
    )
    cors_origins: tuple[str, ...] = Field(
        ("*",), description="Browser origins that may call; keys are never cookies."
    )
    public_url: str | None = Field(
        None, description="Base URL that clients see; needed behind a proxy that does not send it."
    )
    playground: bool = Field(
        True, description="Serve the page for people at `/`, and the reference at `/docs`."
    )


class KeySettings(Section):
    """API keys."""

    hashes: tuple[str, ...] = Field(
        (), description="SHA-256 of each API key, hex; FLORENCE_API_KEY adds one in the clear."
    )
    cache_s: float = Field(2.0, ge=0, le=5, description="How long a replica caches a key.")
    rate_burst: int = Field(
        10, ge=1, description="Requests that a key with a rate limit may begin at once."
    )


class StoreSettings(Section):
    """The store of jobs, webhooks and keys."""

    url: str = Field(
        "sqlite:////var/lib/florence/queue.db",
        pattern=r"^(sqlite:///.+|postgres(ql)?://.+|memory:)$",
        description=(
            "Either `postgresql://…`, `sqlite:///FILE` on one node, or `memory:`, a temporary file."
        ),
    )
    pool_size: int = Field(8, ge=1, le=100, description="PostgreSQL connections of one replica.")
    patience_s: float = Field(
        10.0,
        ge=0,
        description="How long a call waits for a store that does not answer; then 503.",
    )

    @property
    def is_postgres(self) -> bool:
        """Whether the store is a server; else it lives in a process of this service."""
        return self.url.startswith("postgres")

    @property
    def file(self) -> Path | None:
        """The file of a SQLite store; None for `memory:`, whose file has no name."""
        prefix, _, name = self.url.partition("sqlite:///")
        return Path(name) if name and not prefix else None


class QueueSettings(Section):
    """The durable queue."""

    max_queued: int = Field(
        100_000, ge=1, description="Jobs that may wait; further submits get 429."
    )
    max_running: int = Field(
        16, ge=1, le=4096, description="Jobs that one Dispatcher runs at a time."
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts at a job whose workers die.")
    retry_delay_s: float = Field(
        0.5, ge=0, description="Wait before the second attempt; it doubles before each further one."
    )
    lease_s: float = Field(
        15.0,
        ge=1,
        description="Length of a lease; a worker without a heartbeat in this time loses its jobs.",
    )
    beat_s: float = Field(
        1.0, gt=0, description="Time between heartbeats, which also bring cancellations."
    )
    poll_s: float = Field(
        1.0, gt=0, description="Longest extra wait of a job whose wake-up call was lost."
    )
    drain_s: float = Field(
        20.0, ge=0, description="Time that a stopped Dispatcher gives its running jobs to end."
    )
    result_ttl_s: float = Field(3600.0, gt=0, description="How long a result can be fetched.")
    large_result_ttl_s: float = Field(
        360.0, gt=0, description="The same for a large result, or with X-Fal-Store-IO: 0."
    )
    large_result_bytes: int = Field(
        10 * 1024, ge=1, description="Size from which a result is large."
    )


class WebhookSettings(Section):
    """Deliveries of webhooks."""

    keys: str = Field(
        "/var/lib/florence/webhooks",
        min_length=1,
        description="Folder of the Ed25519 keys, one PEM file each; a Secret on Kubernetes.",
    )
    timeout_s: float = Field(15.0, gt=0, description="Time for one delivery.")
    max_attempts: int = Field(11, ge=1, le=100, description="Attempts at one delivery.")
    span_s: float = Field(
        7200.0, gt=0, description="Time over which the attempts are spread, with growing pauses."
    )
    allowed_ports: tuple[int, ...] = Field((80, 443), description="Ports that may be posted to.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Private hosts that may be posted to: names, `host:port` or networks.",
    )


class PreprocessSettings(Section):
    """Limits of images, and of the downloads for them."""

    max_bytes: int = Field(
        20 * MIB, ge=1024, description="Largest file, from a URL or a data URI, decoded."
    )
    max_pixels: int = Field(
        50_000_000, ge=1, description="Most pixels of one image, checked before decoding."
    )
    min_side: int = Field(2, ge=1, description="Shortest side of an image in pixels.")
    decode_threads: int = Field(
        2, ge=1, le=64, description="Images that one Preprocess replica decodes at a time."
    )
    fetch_timeout_s: float = Field(
        20.0, gt=0, description="Time for one download, redirects included."
    )
    connect_timeout_s: float = Field(5.0, gt=0, description="Time to reach a host.")
    max_redirects: int = Field(3, ge=0, le=10, description="Redirects that are followed.")
    allowed_ports: tuple[int, ...] = Field((80, 443), description="Ports that may be fetched from.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Private hosts that may be fetched from: names, `host:port` or networks.",
    )


class InferenceSettings(Section):
    """Batches and generation."""

    backend: Literal["engine", "generate"] = Field(
        "engine",
        description="Either `engine`, which batches in flight, or transformers' slower `generate`.",
    )
    max_batch_size: int = Field(
        8, ge=1, le=1024, description="Most sequences in a batch; fewer where memory is short."
    )
    prefill_batch_size: int = Field(
        4, ge=1, le=64, description="Most images that go through the encoder together."
    )
    max_wait_ms: float = Field(
        2.0, ge=0, le=1000, description="How long a request waits for others to start with it."
    )
    turn_tokens: int = Field(
        128,
        ge=1,
        description="Tokens after which a sequence is preempted while others wait.",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of the GPU's memory that one replica may take."
    )
    max_queue: int = Field(
        64, ge=1, description="Requests that wait in one replica; further ones get 429."
    )
    max_queue_tokens: int = Field(
        1_000_000,
        ge=1,
        description="Most tokens that wait in one replica: prompts, and expected answers.",
    )
    num_beams: int | None = Field(
        None, ge=1, le=16, description="Beams; the checkpoint's own when not given, 1 is fastest."
    )
    max_new_tokens: int = Field(1024, ge=1, description="Longest answer in tokens.")
    max_text_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest `text_input` in tokens; when not given, what the encoder takes.",
    )
    min_new_tokens: int = Field(
        0, ge=0, description="Shortest answer in tokens; for benchmarks of equal length."
    )
    no_repeat_ngram_size: int | None = Field(
        None,
        ge=0,
        le=32,
        description="Length in tokens of the n-grams that may not come twice in an answer; "
        "0 allows true repeats, as in tables; the checkpoint's own when not given.",
    )
    constrained: bool = Field(
        False,
        description="Let tasks that find boxes write only complete boxes with ordered corners.",
    )
    image_cache_mb: int = Field(
        64,
        ge=0,
        description="Memory for encoded images in one replica, each for its own key; 0 keeps none.",
    )
    stall_timeout_s: float = Field(
        300.0, gt=0, description="Longest pass through the model; after it the replica is replaced."
    )

    @property
    def image_cache_bytes(self) -> int:
        return self.image_cache_mb * 1_000_000


class PostprocessSettings(Section):
    """The annotated picture."""

    annotate: bool = Field(True, description="Draw what is found and return the picture's URL.")
    jpeg_quality: int = Field(
        90, ge=1, le=95, description="Quality of the annotated picture, a JPEG."
    )
    draw_threads: int = Field(
        2, ge=1, le=64, description="Pictures that one Postprocess replica draws at a time."
    )


class FileSettings(Section):
    """Where uploads and annotated pictures are kept."""

    root: str = Field(
        "/var/lib/florence/files",
        min_length=1,
        description="A folder, or `s3://`, `gs://` or `az://` with a bucket and a prefix.",
    )
    expires_s: float = Field(3600.0, gt=0, description="Age at which a file is removed.")
    max_upload_bytes: int = Field(
        32 * MIB, ge=1024, description="Largest file that may be uploaded."
    )
    upload_expires_s: float = Field(
        900.0, gt=0, description="How long an upload URL is valid; it can be used once."
    )


class TracingSettings(Section):
    """OpenTelemetry's traces."""

    exporter: Literal["none", "file", "otlp"] = Field(
        "none",
        description="Where spans go: nowhere, to a `file` per replica, or to an `otlp` collector.",
    )
    endpoint: str = Field(
        "http://127.0.0.1:4318/v1/traces",
        pattern=r"^https?://.+$",
        description="The collector's URL for OTLP over HTTP.",
    )
    folder: str = Field(
        "/var/lib/florence/traces",
        min_length=1,
        description="Folder of `file`: JSON lines, one file per replica, which are never removed.",
    )
    sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced; a caller's `traceparent` decides first.",
    )
    service_name: str = Field("florence", min_length=1, description="The service's name in traces.")


class Settings(Section):
    """The whole tree, as under `args:` in serve_config.yaml."""

    model: ModelSettings = ModelSettings()
    ingress: IngressSettings = IngressSettings()
    keys: KeySettings = KeySettings()
    store: StoreSettings = StoreSettings()
    queue: QueueSettings = QueueSettings()
    webhooks: WebhookSettings = WebhookSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    inference: InferenceSettings = InferenceSettings()
    postprocess: PostprocessSettings = PostprocessSettings()
    files: FileSettings = FileSettings()
    tracing: TracingSettings = TracingSettings()


def parse(tree: dict[str, Any]) -> Settings:
    """Check `tree` and freeze it.

    Raises:
        SetupError: a key or a value is wrong; the message names its path.
    """
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SetupError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """One line: each wrong setting with its path, what is wrong with it, and what is right."""
    return "; ".join(
        explain_one(fault["loc"], fault["type"], fault["msg"]) for fault in error.errors()
    )


def explain_one(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    """What is wrong with the setting at `loc`; an unknown one with the nearest that there is."""
    path = ".".join(map(str, loc))
    if kind != "extra_forbidden":
        said = message.removeprefix("Value error, ").replace("Input should", "it should", 1)
        return f"setting {path}: {said}"
    near = get_close_matches(path, setting_paths(), 1, 0.5)
    advice = f"did you mean {near[0]}?" if near else "docs/settings.md lists all of them"
    return f"setting {path}: there is none of this name; {advice}"


def is_list(path: str) -> bool:
    """Whether the setting at `path` takes several values."""
    section, _, key = path.partition(".")
    part = Settings.model_fields[section].annotation if section in Settings.model_fields else None
    field = getattr(part, "model_fields", {}).get(key)
    return field is not None and get_origin(field.annotation) is tuple


def setting_paths() -> list[str]:
    """The paths of all settings and of their sections."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    inside = (
        f"{name}.{key}"
        for name, part in sections.items()
        for key in getattr(part, "model_fields", {})
    )
    return [*sections, *inside]


def api_key_from_environment() -> str | None:
    """The key in the clear that the operator gave in FLORENCE_API_KEY, if any."""
    return os.environ.get("FLORENCE_API_KEY", "").strip() or None


def store_from_environment() -> str | None:
    """The URL of the store that commands work on, which the operator gave in FLORENCE_STORE."""
    return os.environ.get("FLORENCE_STORE", "").strip() or None


def with_environment(settings: Settings) -> Settings:
    """The settings with what the environment says: one more key, and where the queue is.

    A URL in the settings themselves goes before the environment's.
    """
    key = api_key_from_environment()
    hashes = settings.keys.hashes + ((hash_key(key),) if key else ())
    keys = settings.keys.model_copy(update={"hashes": tuple(dict.fromkeys(hashes))})
    return settings.model_copy(update={"keys": keys, "store": placed(settings.store)})


def placed(store: StoreSettings) -> StoreSettings:
    """The store of the settings, or the environment's where they name none."""
    url = store_from_environment()
    if url is None or "url" in store.model_fields_set:
        return store
    return StoreSettings(**store.model_dump() | {"url": url})


def state_home() -> Path:
    """The XDG state directory's folder for this service."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "florence"


def hash_key(key: str) -> str:
    """SHA-256 of an API key in hex; keys are long and random, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()
