"""A checkpoint's folder, and what its files say about images, lengths and search; no torch."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, cast

from deployments.errors import SetupError
from deployments.florence.adapter_files import is_adapter, read_config
from deployments.florence.tensor_files import weight_headers
from deployments.florence.vocabulary import Vocabulary
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings, ModelSettings

DESCRIPTION_FILES = ("*.json",)
DEMO_MARK = "florence_serve_demo"  # in config.json
OLD_WEIGHTS = "pytorch_model.bin"
ALL_FILES = ("*.json", "*.safetensors")

# What a generation config says about the search, and older files say in config.json.
SEARCH = (
    "bos_token_id",
    "decoder_start_token_id",
    "early_stopping",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "pad_token_id",
)
# Without these the family does not say what it was trained to say.
NEEDED = ("decoder_start_token_id", "eos_token_id", "forced_bos_token_id")


@dataclass(frozen=True)
class Checkpoint:
    """A folder in transformers' own Florence-2 format."""

    folder: Path
    source: str = ""  # what a user calls it, where that is not the folder

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
    def search(self) -> dict[str, Any]:
        """How it wants answers to be searched, in the words of `SEARCH`.

        What its generation config leaves out is taken from config.json, where older files keep it.
        """
        file = self.folder / "generation_config.json"
        config = read(self.folder, file.name) if file.is_file() else {}
        said = self._config, self._config["text_config"], config
        return {name: each[name] for each in said for name in SEARCH if each.get(name) is not None}

    @cached_property
    def num_beams(self) -> int:
        """Beams of the search; 1 where nothing is said."""
        return int(self.search.get("num_beams") or 1)

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
        if not (self.folder / "config.json").is_file() and is_adapter(self.folder):
            refuse_adapter(self.folder, self.source or str(self.folder))
        config = read(self.folder, "config.json")
        if is_original_layout(config):
            line = convert_line(self.source or self.folder)
            raise SetupError(
                f"{self.source or self.folder} is in Microsoft's layout: "
                f"run `{line}` and serve that folder"
            )
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
        return sum(math.prod(each.shape) for each in weight_headers(self.folder).values())

    def check_files(self) -> None:
        """Refuse weights that are not the checkpoint's own, whole and as it was trained.

        Raises:
            SetupError: a file is missing or cut off, or another would be ignored.
        """
        if is_adapter(self.folder):
            refuse_adapter(self.folder, str(self.folder))
        if "quantization_config" in self._config:
            raise SetupError(
                f"{self.folder} is quantised, which is not served: "
                "give the checkpoint that it was made from"
            )
        if not any(self.folder.glob("*.safetensors*")) and (self.folder / OLD_WEIGHTS).is_file():
            raise SetupError(
                f"{self.folder} has {OLD_WEIGHTS} only: "
                f"run `{convert_line(self.folder)}` and serve that folder"
            )
        weight_headers(self.folder)

    def check_search(self) -> None:
        """Refuse a checkpoint that does not say how its answers begin and end.

        Raises:
            SetupError: the line says what that does to them.
        """
        if missing := [name for name in NEEDED if name not in self.search]:
            raise SetupError(
                f"neither generation_config.json nor config.json of {self.source or self.folder} "
                f"says {', '.join(missing)}, without which answers can be an endless <s>: "
                "add it, or set model.accept_missing_rules to true"
            )

    def check(self) -> None:
        """Read and check everything but the weights.

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


def convert_line(source: Path | str, *, base: str = "") -> str:
    """The command that makes a checkpoint of `source`, or of the adapter there on `base`."""
    name = Path(source).name
    words = (
        [base, f"{name}-merged", "--adapter", str(source)]
        if base
        else [str(source), f"{name}-native"]
    )
    return shlex.join(["florence", "convert", *words])


def is_original_layout(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is Microsoft's, with code of its own."""
    vision, text = config.get("vision_config"), config.get("text_config")
    kinds = [part.get("model_type") for part in (vision, text) if isinstance(part, dict)]
    return any(kind in ("davit", "florence2_language") for kind in kinds)


def refuse_adapter(folder: Path, source: str) -> NoReturn:
    """Refuse a folder with an adapter in it.

    Raises:
        SetupError: the message is the command that merges it.
    """
    try:
        base = str(read_config(folder).get("base_model_name_or_path") or "BASE")
    except SetupError:
        base = "BASE"
    if (folder / "config.json").is_file():
        base = source
    line = convert_line(source, base=base)
    raise SetupError(f"{source} has an adapter, which needs its base: run `{line}` and serve that")


def open_checkpoint(
    settings: ModelSettings, files: tuple[str, ...] = DESCRIPTION_FILES
) -> Checkpoint:
    """The checkpoint that the settings name, downloaded from the hub if it is no folder.

    Raises:
        SetupError: it is refused, missing or broken.
    """
    if files != DESCRIPTION_FILES:
        open_checkpoint(settings)  # one that is refused is not downloaded whole
    checkpoint = Checkpoint(folder(settings, files), settings.path)
    checkpoint.check()
    if not settings.accept_missing_rules:
        checkpoint.check_search()
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
            f"use florence-community/{name or 'Florence-2-large'}, the same weights, "
            f"or run `{convert_line(path)}`"
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
