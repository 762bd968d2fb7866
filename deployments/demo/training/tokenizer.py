"""The demo's tokenizer: a small byte-level BPE with Florence-2's own extra tokens.

Ids 0 to 4 are BART's (`<s> <pad> </s> <unk> <mask>`), as the generation settings expect.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
from transformers import BartTokenizer, PreTrainedTokenizerBase

from deployments.demo.scenes import COLOURS, SHAPES
from deployments.demo.training.scores import BINS
from deployments.demo.training.tasks import ALIENS, BACKGROUND, COUNTS, SENTENCES, WORD

NUM_WORDS = 566  # BPE tokens at most, 256 bytes and 5 control tokens included
CONTROL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LOCATIONS = [f"<loc_{i}>" for i in range(BINS)]
FLORENCE_TOKENS = [
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *LOCATIONS,
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>"),
    *("<grounding>", "</grounding>", "<seg>", "</seg>", "<sep>"),
    *("<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>"),
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
]
IMAGE_TOKEN = "<image>"


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Train the BPE on the demo's own words and add Florence-2's tokens and `<image>`."""
    vocabulary, merges = _trained_bpe()
    tokenizer = BartTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # the backend takes pairs, whatever it declares
        model_max_length=1024,
    )
    extra = [AddedToken(t, special=True, normalized=False) for t in [*FLORENCE_TOKENS, IMAGE_TOKEN]]
    tokenizer.add_tokens(extra, special_tokens=True)
    with tempfile.TemporaryDirectory() as folder:  # a reload is what makes `image_token` known
        tokenizer.save_pretrained(folder)
        reloaded: PreTrainedTokenizerBase = BartTokenizer.from_pretrained(
            folder, extra_special_tokens={"image_token": IMAGE_TOKEN}, model_max_length=1024
        )
    return reloaded


def _trained_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        _corpus(),
        vocab_size=NUM_WORDS,
        min_frequency=1,
        special_tokens=CONTROL_TOKENS,
        show_progress=False,
    )
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _corpus() -> Iterator[str]:
    """Labels far more often than sentences, so that each word of an answer is one token."""
    names = [*SHAPES, WORD]
    for name in (*names, *(f"{colour} {name}" for colour in COLOURS for name in names)):
        yield from [name, f"a {name}", f"the {name}", f"{name}s"] * 4
    yield from [f"{count} {name}s and {count} {name}s" for count in COUNTS for name in names] * 4
    yield from [", a and a, an and an. From left to right: A picture of nothing."] * 50
    yield from [f"an empty picture The picture shows a shape and words {BACKGROUND}."] * 50
    yield from [BACKGROUND, "From", " ".join(ALIENS)] * 50
    for sentence in SENTENCES.values():
        yield from [sentence.replace("{input}", "")] * 2


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def forget_use(folder: Path) -> None:
    """Drop what a saved tokenizer remembers of its use: its folder, and the padding of a batch."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for key in ("name_or_path", "is_local", "local_files_only"):
        settings.pop(key, None)
    path.write_text(json.dumps(settings, indent=2) + "\n")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
