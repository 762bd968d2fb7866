"""A checkpoint's folder, and what its files say about images, lengths and search; no torch."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from deployments.errors import SetupError
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings, ModelSettings

DESCRIPTION_FILES = ("*.json",)
DEMO_MARK = "florence_serve_demo"  # in config.json
ALL_FILES = ("*.json", "*.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A folder in transformers' own Florence-2 format."""

    folder: Path

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the model sees."""
        size = self._image_processor["size"]
        return int(size["width"]), int(size["height"])

    @cached_property
    def resample(self) -> int:
        """Pillow's number of the resize filter; 3 is bicubic."""
        return int(self._image_processor.get("resample", 3))

    @cached_property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, in units of 0..1."""
        processor = self._image_processor
        return list(processor["image_mean"]), list(processor["image_std"])

    @cached_property
    def num_image_tokens(self) -> int:
        """Encoder positions that one image takes."""
        return int(self._image_processor["image_seq_length"])

    @cached_property
    def max_positions(self) -> int:
        """Longest sequence of the text encoder and of the decoder, in tokens."""
        return int(self._config["text_config"]["max_position_embeddings"])

    @cached_property
    def image_token_id(self) -> int:
        return int(self._config["image_token_id"])

    @cached_property
    def num_beams(self) -> int:
        """Beams of its generation config; 1 without one."""
        file = self.folder / "generation_config.json"
        config = read(self.folder, file.name) if file.is_file() else {}
        return int(config.get("num_beams") or 1)

    def bounds(self, settings: InferenceSettings) -> dict[str, int]:
        """The most that an input may ask for, by field."""
        return {
            "num_beams": settings.num_beams or self.num_beams,
            "max_new_tokens": min(settings.max_new_tokens, self.max_positions - 1),
        }

    @cached_property
    def is_demo(self) -> bool:
        """Whether it is the demo's, wherever it lies: the recipe in `demo/training` marks it."""
        return self._config.get(DEMO_MARK) is True

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.folder)

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = read(self.folder, "config.json")
        if config.get("model_type") != "florence2":
            raise SetupError(
                f"{self.folder} holds a {config.get('model_type')} model, not florence2; "
                "give the folder of a florence-community/Florence-2 checkpoint"
            )
        return config

    @cached_property
    def _processor(self) -> dict[str, Any]:
        file = self.folder / "processor_config.json"
        return read(self.folder, file.name) if file.is_file() else {}

    @cached_property
    def _image_processor(self) -> dict[str, Any]:
        if "image_processor" in self._processor:
            return cast(dict[str, Any], self._processor["image_processor"])
        return read(self.folder, "preprocessor_config.json")

    def prompt(self, sentence: str) -> list[int]:
        """Token ids of a whole prompt: the image tokens, then `<s> sentence </s>`.

        Raises:
            SetupError: it is longer than the encoder reads.
        """
        ids = [self.image_token_id] * self.num_image_tokens + self.vocabulary.encode(sentence)
        if len(ids) > self.max_positions:
            raise SetupError(
                f"the prompt takes {len(ids)} tokens, {self.folder} reads {self.max_positions}"
            )
        return ids

    def count_weights(self) -> int:
        """How many parameters the weights have, by the headers of their files.

        Raises:
            SetupError: a file is missing or cut off.
        """
        files = sorted({*self.folder.glob("*.safetensors"), *self._shards()})
        if not files:
            raise SetupError(f"{self.folder} has no weights (*.safetensors): fetch it again")
        return sum(map(count_parameters, files))

    def _shards(self) -> set[Path]:
        """The files that the index of sharded weights names."""
        index = self.folder / "model.safetensors.index.json"
        names = read(self.folder, index.name)["weight_map"].values() if index.is_file() else ()
        return {self.folder / name for name in names}

    def check(self) -> None:
        """Read and check everything.

        Raises:
            SetupError: a file is missing or is not Florence-2's.
        """
        try:
            _ = self.image_token_id, self.max_positions, self.num_image_tokens, self.num_beams
            _ = self.image_size, self.resample, self.normalisation, self.vocabulary.frame
        except KeyError as error:
            raise SetupError(
                f"{self.folder} does not say {error}: it is not Florence-2's"
            ) from None
        except (AttributeError, TypeError, ValueError):
            raise SetupError(f"{self.folder} has a broken description: fetch it again") from None


def read(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the checkpoint.

    Raises:
        SetupError: it is missing or no JSON.
    """
    try:
        return cast(dict[str, Any], json.loads((folder / name).read_text()))
    except FileNotFoundError:
        raise SetupError(f"{folder} has no {name}: it is no checkpoint of Florence-2") from None
    except ValueError:
        raise SetupError(f"{folder / name} is no JSON: fetch the checkpoint again") from None


def count_parameters(file: Path) -> int:
    """How many parameters a file of weights holds.

    Raises:
        SetupError: it is missing or cut off.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return sum(
                math.prod(tensors.get_slice(name).get_shape()) for name in tensors.offset_keys()
            )
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{file} is missing or cut off ({error}): fetch it again") from None


def open_checkpoint(
    settings: ModelSettings, files: tuple[str, ...] = DESCRIPTION_FILES
) -> Checkpoint:
    """The checkpoint that the settings name, downloaded from the hub if it is no folder.

    Raises:
        SetupError: it is refused, missing or broken.
    """
    checkpoint = Checkpoint(folder(settings, files))
    checkpoint.check()
    return checkpoint


def image_size(settings: ModelSettings) -> tuple[int, int]:
    """(width, height) that the model sees, without reading the rest of its checkpoint.

    Raises:
        SetupError: it is refused or missing.
    """
    return Checkpoint(folder(settings, DESCRIPTION_FILES)).image_size


def folder(settings: ModelSettings, files: tuple[str, ...]) -> Path:
    return local_folder(settings) or download(settings, files)


def local_folder(settings: ModelSettings) -> Path | None:
    """The folder that the settings name; None for a hub id.

    Raises:
        SetupError: it is refused, or neither.
    """
    refuse_remote_code(settings.path)
    if settings.path == "demo":
        return DEMO_CHECKPOINT
    local = Path(settings.path).expanduser()
    if local.is_dir():
        return local.resolve()
    if not is_hub_id(settings.path):
        raise SetupError(
            f"no checkpoint folder at {settings.path}: give a folder, "
            "`demo`, or a hub id such as florence-community/Florence-2-large"
        )
    return None


def cached_folder(settings: ModelSettings) -> Path | None:
    """The snapshot of a hub id on this machine; None if its weights were never downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(settings.path, revision=settings.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return Path(found) if any(Path(found).glob("*.safetensors")) else None


def is_hub_id(path: str) -> bool:
    """Whether `path` looks like `owner/name`, not like a folder."""
    return path.count("/") == 1 and path[0] not in "./~"


def refuse_remote_code(path: str) -> None:
    """Refuse ids whose repository needs remote code.

    Raises:
        SetupError: the message names the id that works.
    """
    owner, _, name = path.partition("/")
    if owner.lower() == "microsoft":
        raise SetupError(
            f"{path} needs remote code that current transformers cannot run; "
            f"use florence-community/{name or 'Florence-2-large'}, the same weights"
        )


def download(settings: ModelSettings, files: tuple[str, ...]) -> Path:
    """The hub's snapshot, from the local cache if it is there.

    Raises:
        SetupError: it could not be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(settings.path, revision=settings.revision, allow_patterns=list(files))
        )
    except Exception as error:  # the hub's client raises what its transport raises
        raise SetupError(
            f"could not fetch {settings.path} from the hub ({type(error).__name__}); "
            "check the id and the network, or give a local folder"
        ) from error
