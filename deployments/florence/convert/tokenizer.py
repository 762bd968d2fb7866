"""The tokenizer of a checkpoint, with the tokens that Microsoft's code adds when it runs."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing

from deployments.errors import SetupError

IMAGE = "<image>"
FRAME = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
PAIRS = ("cap", "ncap", "dcap", "grounding", "seg")
LATER_PAIRS = ("region_cap", "region_to_desciption", "proposal", "poly")  # misspelt in the weights
TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{number}>" for number in range(1000)),
    *(mark for name in PAIRS for mark in (f"<{name}>", f"</{name}>")),
    "<sep>",
    *(mark for name in LATER_PAIRS for mark in (f"<{name}>", f"</{name}>")),
    *("<and>", IMAGE),
)
CONFIG: dict[str, Any] = {
    "add_prefix_space": False,
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "errors": "replace",
    "extra_special_tokens": {"image_token": IMAGE},
    "image_token": IMAGE,
    "mask_token": "<mask>",
    "model_max_length": 1024,
    "pad_token": "<pad>",
    "processor_class": "Florence2Processor",
    "sep_token": "</s>",
    "tokenizer_class": "RobertaTokenizer",
    "trim_offsets": True,
    "unk_token": "<unk>",
}


def write_tokenizer(source: Path, folder: Path) -> tuple[Tokenizer, int]:
    """Write the tokenizer of `source` to `folder`, whole.

    Returns:
        It, and how many tokens were added.

    Raises:
        SetupError: there is none, or its location tokens are not in order.
    """
    tokenizer = read_tokenizer(source)
    known = tokenizer.get_vocab(with_added_tokens=True)
    missing = [token for token in TOKENS if token not in known]
    add(tokenizer, missing)
    first = tokenizer.token_to_id("<loc_0>") or 0
    if any(tokenizer.token_to_id(f"<loc_{n}>") != first + n for n in range(1000)):
        raise SetupError(f"{source} has some of <loc_0>…<loc_999> only: it is not Florence-2's")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    return tokenizer, len(missing)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in either form: one file, or vocabulary and merges.

    Raises:
        SetupError: there is none, or it is broken.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    except Exception:  # the library raises nothing narrower
        raise SetupError(
            f"{folder} has no tokenizer.json, nor vocab.json and merges.txt, that can be read"
        ) from None
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    add(tokenizer, [token for token in FRAME if tokenizer.token_to_id(token) is not None])
    start, end = (tokenizer.token_to_id(token) or 0 for token in ("<s>", "</s>"))
    tokenizer.post_processor = RobertaProcessing(
        ("</s>", end), ("<s>", start), trim_offsets=True, add_prefix_space=False
    )
    file = folder / "added_tokens.json"
    if file.is_file():
        added: dict[str, int] = json.loads(file.read_text())
        add(tokenizer, sorted(added, key=lambda token: added[token]))
        if any(tokenizer.token_to_id(token) != id_ for token, id_ in added.items()):
            raise SetupError(f"{file} leaves ids out: save the tokenizer as tokenizer.json")
    return tokenizer


def add(tokenizer: Tokenizer, tokens: list[str]) -> None:
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in tokens]
    )
