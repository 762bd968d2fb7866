"""Checkpoints with random weights: as slow as wanted, without meaning, made in seconds.

A decoder with random weights never ends by itself. In the mixed checkpoint, the brighter the image,
the longer the answer: its decoder has two channels that nothing else in it writes to.
The clock grows with the logarithm of the step, from the position embeddings.
The alarm says when to end: one head of the first layer attends to the whole encoder alike and reads
the image's brightness from it, by a vector that is fitted once.
The logit of `</s>` is the clock less the alarm, large enough to win as soon as it is positive.
Layer norms move and scale both channels alike, so no layer changes when that is.
A step costs what it costs in any checkpoint of these shapes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig
from transformers.utils import logging as transformers_logging

from deployments.florence.checkpoint import Checkpoint
from deployments.florence.generate_backend import GREEDY
from deployments.florence.tasks import TASKS
from deployments.images.decode import decode, to_pixels
from deployments.settings import DEMO_CHECKPOINT, PreprocessSettings
from loadtest.bench import figures
from loadtest.bench.answer_lengths import LENGTHS, brightness
from loadtest.gpu.model import BASE
from loadtest.scenes import photograph

SEED = 0
WIDTH = 256
SIDE = 224
WORDS = 51290  # of the published tokenizer; the model has rows for some more
COPIED = ("tokenizer.json", "tokenizer_config.json")

CLOCK, ALARM = 0, 1
OTHERS = slice(2, None)
UNWANTED = ("<s>", "<pad>", "<unk>", "<mask>", "<image>")  # would end an answer's text too early
SIZE = 0.02  # of an embedding's elements, as transformers draws them
SPEED = 2.0  # of the clock, in sizes
LOUDNESS = 1000.0
NUM_POSITIONS_UNUSED = 2  # at the start of BART's position embeddings
NUM_FITTED = 256
RIDGE = 1e-4


def bench_checkpoint(folder: Path = figures.FOLDER / "checkpoint") -> Path:
    """A checkpoint of about 10 M parameters in `folder`, made if it is not there.

    Four encoder and four decoder layers of width 256, images of 224×224 in 50 tokens,
    the demo's tokenizer. Its answers never end by themselves.
    """
    if not is_made(folder):
        model = untrained()
        describe(folder)
        model.save_pretrained(folder)
    return folder


def base_checkpoint(folder: Path = figures.FOLDER / "base-checkpoint") -> Path:
    """A checkpoint of Florence-2-base's shapes in `folder`, made if it is not there: 0.9 GB.

    Images of 768×768 in 577 tokens and 51,328 words: the demo's, and others that no prompt has.
    Its answers never end by themselves.
    """
    if not is_made(folder):
        florence = base_model()
        describe(folder, florence.config, BASE.side)
        add_words(folder / "tokenizer.json")
        florence.save_pretrained(folder)
    return folder


def base_model() -> Any:
    """Random weights in Florence-2-base's shapes, with the demo's special tokens."""
    own, demo = BASE.config(), Florence2Config.from_pretrained(DEMO_CHECKPOINT)
    text: Any = own.text_config
    for name in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
        setattr(text, name, getattr(demo.text_config, name))
    own.image_token_id = demo.image_token_id
    return untrained(own)


def add_words(file: Path) -> None:
    """Give the tokenizer in `file` as many words as the published one has."""
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words |= {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    free = set(range(WORDS)).difference(words.values())
    words |= {f"word{id_}": id_ for id_ in free}
    file.write_text(json.dumps(tokenizer))


def mixed_checkpoint(folder: Path = figures.FOLDER / "mixed-checkpoint") -> Path:
    """The same, but greedy, and an answer ends: from 8 tokens for a dark image to 480.

    Its images come from `answer_lengths`.
    """
    if not is_made(folder):
        model = untrained()
        describe(folder)
        end_answers(model, Checkpoint(folder))
        model.generation_config.update(num_beams=1, **GREEDY)
        model.save_pretrained(folder)
    return folder


def is_made(folder: Path) -> bool:
    """Whether the weights, which are written last, are there."""
    return (folder / "model.safetensors").is_file()


def untrained(shape: Florence2Config | None = None) -> Any:
    """A model with random weights, always the same, and the demo's way to generate."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(SEED)
    model: Any = Florence2ForConditionalGeneration(shape or config())
    model.generation_config = GenerationConfig.from_pretrained(DEMO_CHECKPOINT)
    return model.eval()


def describe(folder: Path, shape: Florence2Config | None = None, side: int = SIDE) -> None:
    """The files that say how to read images and text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copy(DEMO_CHECKPOINT / name, folder / name)
    (folder / "processor_config.json").write_text(json.dumps(processor(side), indent=2))
    (shape or config()).save_pretrained(folder)


def config() -> Florence2Config:
    larger = Florence2Config.from_pretrained(DEMO_CHECKPOINT)
    vision: Any = larger.vision_config
    text: Any = larger.text_config
    vision.embed_dim = [32, 64, 128, WIDTH]
    vision.num_heads = vision.num_groups = [1, 2, 4, 8]
    vision.patch_size, vision.patch_padding = [8, 3, 3, 3], [0, 1, 1, 1]
    vision.patch_stride, vision.window_size = [8, 2, 2, 1], 8
    vision.projection_dim = text.d_model = WIDTH
    text.encoder_layers = text.decoder_layers = 4
    text.encoder_attention_heads = text.decoder_attention_heads = 4
    text.encoder_ffn_dim = text.decoder_ffn_dim = 4 * WIDTH
    return larger


def processor(side: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEMO_CHECKPOINT / "processor_config.json").read_text())
    found["image_processor"]["size"] = {"height": side, "width": side}
    found["image_processor"]["image_seq_length"] = (side // 32) ** 2 + 1
    return found


@torch.no_grad()
def end_answers(florence: Any, checkpoint: Checkpoint) -> None:
    """Give a model with random weights its clock and its alarm."""
    decoder = florence.model.language_model.decoder
    bias_first_convolution(florence.model.vision_tower)
    write_embeddings(florence.get_input_embeddings().weight, decoder.embed_positions.weight)
    write_end_token(florence.get_input_embeddings().weight, checkpoint)
    for layer in decoder.layers:
        keep_channels_free(layer)
    connect_alarm(decoder.layers[0])
    fit(florence, checkpoint)


def bias_first_convolution(tower: Any) -> None:
    """Biases for the first convolution, whose layer norm would hide how bright an image is."""
    bias = tower.convs[0].conv.bias
    bias.copy_(2 * torch.randn(len(bias)))


def write_embeddings(tokens: Tensor, positions: Tensor) -> None:
    """Tokens of one size, at right angles to what all positions share.

    So the first layer norm scales the clock alike, whatever token it comes with.
    """
    width = tokens.shape[1] - OTHERS.start
    shared = levelled(torch.randn(1, width))
    words = levelled(torch.randn(len(tokens), width))
    tokens.zero_()
    tokens[:, OTHERS] = SIZE * levelled(words - words @ shared.T / width * shared)
    positions.zero_()
    positions[:, OTHERS] = SIZE * shared
    steps = torch.arange(len(positions) - NUM_POSITIONS_UNUSED)
    positions[NUM_POSITIONS_UNUSED:, CLOCK] = SIZE * SPEED * torch.log1p(steps)


def levelled(rows: Tensor) -> Tensor:
    """Rows with mean 0 and variance 1."""
    return layer_norm(rows, rows.shape[-1:])


def write_end_token(tokens: Tensor, checkpoint: Checkpoint) -> None:
    """The logit of the end is the clock less the alarm; that of the unwanted is 0."""
    vocabulary = checkpoint.vocabulary
    for token in ("</s>", *UNWANTED):
        tokens[vocabulary.id(token)] = 0
    tokens[vocabulary.id("</s>"), CLOCK] = LOUDNESS
    tokens[vocabulary.id("</s>"), ALARM] = -LOUDNESS


def keep_channels_free(layer: Any) -> None:
    """Nothing in a layer writes to the clock or the alarm."""
    for linear in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
        linear.weight[[CLOCK, ALARM]] = 0
        linear.bias[[CLOCK, ALARM]] = 0


def connect_alarm(first: Any) -> None:
    """A head without queries attends to all of the encoder alike; its first value is the alarm.

    Self-attention stays silent in this layer: it would move the clock before the alarm is set.
    """
    first.self_attn.out_proj.weight.zero_()
    first.self_attn.out_proj.bias.zero_()
    attention = first.encoder_attn
    attention.q_proj.weight[: attention.head_dim] = 0
    attention.q_proj.bias[: attention.head_dim] = 0
    attention.out_proj.weight[:, 0] = 0
    attention.out_proj.weight[ALARM, 0] = 1


def fit(florence: Any, checkpoint: Checkpoint) -> None:
    """Have the alarm of an image stand where the clock is when its answer should end.

    A ridge regression from the mean of the encoder's output, over images of every length.
    """
    lengths = [int(length) for length in np.geomspace(*LENGTHS, NUM_FITTED).round()]
    seen = torch.cat(
        [mean_encoded(florence, checkpoint, number, n) for number, n in enumerate(lengths)]
    )
    wanted = clock(florence, checkpoint)[torch.tensor(lengths) - 1]
    means, mean = seen.mean(0), wanted.mean()
    centred = seen - means
    ridge = RIDGE * len(lengths) * centred.var() * torch.eye(len(means), dtype=seen.dtype)
    weights = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (wanted - mean))
    values = florence.model.language_model.decoder.layers[0].encoder_attn.v_proj
    values.weight[0] = weights
    values.bias[0] = mean - means @ weights


def mean_encoded(florence: Any, checkpoint: Checkpoint, seed: int, length: int) -> Tensor:
    """The mean of the encoder's output of an image for that length: (1, width), float64."""
    image = decode(photograph(seed, brightness=brightness(length)), PreprocessSettings())
    pixels = to_pixels(image, checkpoint.image_size, checkpoint.resample)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in checkpoint.normalisation)
    scaled = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
    ids = torch.tensor([checkpoint.prompt(TASKS["region-proposal"].sentence)])
    output: Tensor = florence.model(
        input_ids=ids, pixel_values=scaled[None], decoder_input_ids=torch.zeros_like(ids[:, :1])
    ).encoder_last_hidden_state
    return output.mean(1).double()


def clock(florence: Any, checkpoint: Checkpoint) -> Tensor:
    """The clock less the silent alarm at each step, as the first layer sees them: (steps,)."""
    decoder = florence.model.language_model.decoder
    token = florence.get_input_embeddings().weight[checkpoint.vocabulary.id("<loc_0>")]
    seen = decoder.layernorm_embedding(token + decoder.embed_positions.weight)
    difference: Tensor = seen[NUM_POSITIONS_UNUSED:, CLOCK] - seen[NUM_POSITIONS_UNUSED:, ALARM]
    return difference.double()
