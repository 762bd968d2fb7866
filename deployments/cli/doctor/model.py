"""Is the checkpoint there, complete, and can it be loaded? Does a GPU have room for the slots?"""

from pathlib import Path

from deployments.cli.doctor.subject import Subject
from deployments.cli.doctor.verdict import Verdict, fail, ok, skip, warn
from deployments.florence.checkpoint import Checkpoint, cached_folder, local_folder
from deployments.settings import InferenceSettings, ModelSettings

SMALL = 50_000_000  # weights that are loaded in a moment
REACH_S = 5.0
GB = 1e9


def model(subject: Subject) -> Verdict:
    """The checkpoint; a large one is loaded only where that is asked for.

    Raises:
        SetupError: it is missing, broken, or not Florence-2's.
    """
    settings = subject.settings.model
    folder = folder_of(settings)
    if folder is None:
        return at_the_hub(settings)
    checkpoint = Checkpoint(folder)
    checkpoint.check()
    said = f"{settings.path}, {checkpoint.count_weights() / 1e6:.0f} M weights"
    if not subject.load and checkpoint.count_weights() > SMALL:
        return ok(f"{said}, all there; --load loads them")
    load(settings, folder)
    return ok(f"{said}, loads")


def folder_of(settings: ModelSettings) -> Path | None:
    """Where it lies on this machine; None for a hub id that was not fetched.

    Raises:
        SetupError: it is refused, or no folder.
    """
    return local_folder(settings) or cached_folder(settings)


def at_the_hub(settings: ModelSettings) -> Verdict:
    """Whether a checkpoint that is not here can be fetched; it is not."""
    from huggingface_hub import HfApi

    said = f"{settings.path} at {settings.revision} is not here"
    try:
        HfApi().model_info(settings.path, revision=settings.revision, timeout=REACH_S)
    except Exception as error:  # the hub's client raises what its transport raises
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "open the way to the hub, give HF_TOKEN, or a folder as model.path"
        return fail(f"{said}, and cannot be fetched ({why})", remedy)
    return ok(f"{said}, and the hub has it: it is fetched at the first start")


def load(settings: ModelSettings, folder: Path) -> None:
    """Load it as a replica does, on a GPU where there is one.

    Raises:
        SetupError: the weights do not fit the configuration.
    """
    from deployments.florence.model import Model

    here = {"path": str(folder), "device": "auto", "dtype": "auto"}
    Model(settings.model_copy(update=here))


def gpu(subject: Subject) -> Verdict:
    """Whether a GPU has room for the weights and the slots.

    Raises:
        SetupError: the checkpoint is missing or broken.
    """
    settings = subject.settings.model
    if settings.device == "cpu":
        return skip("the model runs on the CPU")
    from deployments.florence.memory_estimate import estimate_memory, first_gpu

    device, folder = first_gpu(), folder_of(settings)
    if device is None:
        return without_card(subject)
    if folder is None:
        return skip(f"{device.name}; the checkpoint is not here, so its size is not known")
    estimate = estimate_memory(device, Checkpoint(folder), settings, subject.settings.inference)
    available, weights = estimate.available / GB, estimate.weights / GB
    held = f"{device.name}, {available:.1f} GB to take, {weights:.1f} GB of weights"
    return judged(held, estimate.max_batch_size, subject.settings.inference)


def without_card(subject: Subject) -> Verdict:
    """What it means that no GPU is visible."""
    if subject.settings.model.device == "auto":
        return skip("none is visible, so the model runs on the CPU")
    if subject.is_elsewhere:
        return skip("none is visible here; the service has its own")
    return fail("none is visible", "give this machine one, or set model.device to cpu")


def judged(held: str, slots: int, settings: InferenceSettings) -> Verdict:
    """What it means that so many slots fit."""
    wanted = settings.max_batch_size
    if slots < 1:
        remedy = "free the GPU, or lower inference.max_new_tokens or inference.num_beams"
        return fail(f"{held}: no slot fits", remedy)
    if slots < wanted:
        remedy = f"set inference.max_batch_size to {slots}, or free the GPU"
        return warn(f"{held}: {slots} of {wanted} slots fit", remedy)
    return ok(f"{held}: all {wanted} slots fit")
