"""Checks the checkpoint and the GPU: whether the one loads, and the other holds the batch."""

from pathlib import Path

from deployments.cli.doctor.check import Finding, fail, ok, skip, warn
from deployments.cli.doctor.local import Setup
from deployments.florence.adapters import read_adapters
from deployments.florence.checkpoint import Checkpoint, cached_folder, local_folder
from deployments.settings import InferenceSettings, ModelSettings

SMALL = 50_000_000  # weights that load in a moment
HUB_TIMEOUT_S = 5.0


def check_model(setup: Setup) -> Finding:
    """Whether the checkpoint is complete. A large one is loaded only with `setup.load`.

    Raises:
        SetupError: it is missing, broken, or not Florence-2's, or an adapter does not fit.
    """
    settings = setup.settings.model
    folder = folder_of(settings)
    if folder is None:
        return hub_finding(settings)
    checkpoint = Checkpoint(folder)
    checkpoint.check()
    checkpoint.check_files()
    if not settings.accept_missing_rules:
        checkpoint.check_search()
    from deployments.florence.weights import check_headers

    check_headers(folder)
    said = f"{settings.path}, {checkpoint.count_weights() / 1e6:.0f} M weights"
    if adapters := read_adapters(settings, checkpoint):
        said += f", {', '.join(adapters)} fit"
    if not setup.load and checkpoint.count_weights() > SMALL:
        return ok(f"{said}, all there; --load loads them")
    from deployments.florence.model import Model

    here = {"path": str(folder), "device": "auto", "dtype": "auto"}
    Model(settings.model_copy(update=here))
    return ok(f"{said}, loads")


def folder_of(settings: ModelSettings) -> Path | None:
    """Where it is on this machine; None for a hub id that was not fetched.

    Raises:
        SetupError: it is refused, or no folder.
    """
    return local_folder(settings) or cached_folder(settings)


def hub_finding(settings: ModelSettings) -> Finding:
    """Whether the hub has a checkpoint that is not here; it is not fetched."""
    from huggingface_hub import HfApi

    said = f"{settings.path} at {settings.revision} is not here"
    try:
        HfApi().model_info(settings.path, revision=settings.revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the hub's client raises what its transport raises
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "open the way to the hub, give HF_TOKEN, or a folder as model.path"
        return fail(f"{said}, and cannot be fetched ({why})", remedy)
    return ok(f"{said}, and the hub has it: it is fetched at the first start")


def check_gpu(setup: Setup) -> Finding:
    """Whether a GPU has memory for the weights and the batch.

    Raises:
        SetupError: the checkpoint is missing or broken.
    """
    settings = setup.settings.model
    if settings.device == "cpu":
        return skip("the model runs on the CPU")
    from deployments.florence.memory_estimate import estimate_memory, first_gpu

    device, folder = first_gpu(), folder_of(settings)
    if device is None:
        return without_gpu(setup)
    if folder is None:
        return skip(f"{device.name}; the checkpoint is not here, so its size is not known")
    estimate = estimate_memory(device, Checkpoint(folder), settings, setup.settings.inference)
    available, weights = estimate.available / 1e9, estimate.weights / 1e9
    said = f"{device.name}, {available:.1f} GB to take, {weights:.1f} GB of weights"
    if estimate.image_cache:
        said += f", {estimate.image_cache / 1e9:.2f} GB for images"
    return gpu_finding(said, estimate.max_batch_size, setup.settings.inference)


def without_gpu(setup: Setup) -> Finding:
    from deployments.florence.engine.device import missing_gpu

    missing = missing_gpu()
    if setup.settings.model.device == "auto":
        return skip(f"{missing}, so the model runs on the CPU")
    if setup.is_elsewhere:
        return skip(f"{missing} here; the service has its own")
    return fail(missing, "give this machine what is missing, or set model.device to cpu")


def gpu_finding(said: str, fitting: int, settings: InferenceSettings) -> Finding:
    wanted = settings.max_batch_size
    if fitting < 1:
        remedy = "free the GPU, or lower inference.max_new_tokens or inference.num_beams"
        return fail(f"{said}: no slot fits", remedy)
    if fitting < wanted:
        remedy = f"set inference.max_batch_size to {fitting}, or free the GPU"
        return warn(f"{said}: {fitting} of {wanted} slots fit", remedy)
    return ok(f"{said}: all {wanted} slots fit")
