"""A loaded checkpoint: weights where they compute, and what its files say about their use."""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Florence2ForConditionalGeneration
from transformers.utils import logging as transformers_logging

from deployments.errors import SetupError
from deployments.florence.adapters import read_adapters
from deployments.florence.checkpoint import ALL_FILES, Checkpoint, open_checkpoint
from deployments.florence.engine.device import GB, missing_gpu, setup_errors
from deployments.florence.engine.prefill import Inputs
from deployments.florence.engine.search import GenerationRules
from deployments.florence.sequence import Pixels
from deployments.florence.weights import check_headers, check_ignored, check_values
from deployments.settings import ModelSettings
from deployments.telemetry.log import logger

FREE_IT = "stop what else uses the card, or give the replica a larger one"
# What else a generation config may ask for, with the value that asks for nothing.
UNSUPPORTED = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "min_length": 0,
    "num_return_sequences": 1,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
    "suppress_tokens": None,
    "watermarking_config": None,
}


class Model:
    """Transformers' Florence-2 and its checkpoint.

    Raises:
        SetupError: the checkpoint or the device is not there, or an adapter does not fit.
    """

    def __init__(self, settings: ModelSettings) -> None:
        torch.set_num_threads(settings.torch_threads)
        self.checkpoint = open_checkpoint(settings, ALL_FILES)
        self.checkpoint.check_files()
        check_headers(self.checkpoint.folder)
        self.adapters = read_adapters(settings, self.checkpoint)
        self.device = device(settings.device)
        self.dtype = dtype(settings.dtype, self.device)
        self.florence = load(self.checkpoint, self.device, self.dtype)
        self.florence.generation_config.update(**self.checkpoint.search)
        check_values(self.checkpoint.folder, self.florence.state_dict())
        check_ignored(self.checkpoint.folder, self.florence.state_dict())
        mean, std = (
            torch.tensor(values, device=self.device) for values in self.checkpoint.normalisation
        )
        num_image_tokens = self.checkpoint.num_image_tokens
        self.inputs = Inputs(mean, std, num_image_tokens, self.pad, None, self.dtype)

    @property
    def pad(self) -> int:
        return self.checkpoint.vocabulary.id("<pad>")

    @property
    def num_beams(self) -> int:
        """The checkpoint's own beams."""
        return int(self.florence.generation_config.num_beams or 1)

    def rules(self) -> GenerationRules:
        """What the generation config says, for the engine.

        Raises:
            SetupError: it asks for what the engine does not know.
        """
        config = self.florence.generation_config
        unsupported = [name for name, none in UNSUPPORTED.items() if asks(config, name, none)]
        eos = config.eos_token_id
        if unsupported or not isinstance(eos, int):
            raise SetupError(
                f"the engine does not know {', '.join(unsupported) or 'several eos_token_id'} of "
                f"{self.checkpoint.folder / 'generation_config.json'}: "
                "set inference.backend to generate, or take it out"
            )
        return GenerationRules(
            start=config.decoder_start_token_id,
            pad=self.pad,
            eos=eos,
            forced_bos=config.forced_bos_token_id,
            forced_eos=config.forced_eos_token_id,
            ngram=config.no_repeat_ngram_size or 0,
            early_stopping=config.early_stopping or False,
            length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
        )

    def padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts padded on the right, and the mask of what is no padding: (batch, length)."""
        tensors = [torch.tensor(prompt) for prompt in prompts]
        ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=self.pad)
        return ids.to(self.device), (ids != self.pad).long().to(self.device)

    def normalised(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Images as transformers wants them: (batch, 3, height, width) about zero."""
        return self.inputs.images(images).permute(0, 3, 1, 2)


def asks(config: Any, name: str, none: object) -> bool:
    """Whether the config's `name` has a value that does something."""
    return getattr(config, name, None) not in (None, none)


def device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        SetupError: a GPU is asked for and there is none, or its driver is too old.
    """
    missing = missing_gpu() if name != "cpu" else ""
    if missing and name == "cuda":
        raise SetupError(f"{missing}: set model.device to cpu, or give the node what is missing")
    if "driver" in missing:
        logger.warning("the model runs on the CPU: %s", missing)
    return torch.device("cpu" if missing or name == "cpu" else "cuda")


def dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision to compute in: what the checkpoints are stored in, where it is fast."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    found: torch.dtype = getattr(torch, name)
    return found


def load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The weights, ready to generate.

    Raises:
        SetupError: there are none, they do not fit the configuration, or not the device.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        florence = Florence2ForConditionalGeneration.from_pretrained(
            checkpoint.folder, dtype=dtype, local_files_only=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise SetupError(f"could not load the weights in {checkpoint.folder}: {first}") from error
    num_bytes = sum(weight.nbytes for weight in florence.parameters())
    with setup_errors(f"weights of {num_bytes / GB:.2f} GB", FREE_IT):
        return florence.to(device).eval()  # type: ignore[arg-type]
