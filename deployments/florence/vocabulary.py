"""A checkpoint's tokenizer: prompts to ids, and ids to text and location bins; no torch."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from tokenizers import Tokenizer

from deployments.errors import SetupError

_LOCATION = re.compile(r"<loc_(\d+)>")
_MARK = re.compile(r"<[^<>\s]+>")
_POLYGON_MARKS = {"<sep>": "s", "<poly>": "p", "</poly>": "q"}


class Vocabulary:
    """The tokenizer of a checkpoint.

    Raises:
        SetupError: the folder has no `tokenizer.json`, or one that is broken or without locations.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise SetupError(f"{folder} has no tokenizer.json: it is no checkpoint of Florence-2")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception:  # the library raises nothing narrower
            raise SetupError(f"{file} is no tokenizer: fetch the checkpoint again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if not self.bins:
            raise SetupError(f"{file} has no <loc_0>…<loc_999> tokens: it is not Florence-2's")

    @cached_property
    def bins(self) -> dict[int, int]:
        """Location tokens: id → bin."""
        found = ((id_, _LOCATION.fullmatch(token)) for token, id_ in self._ids.items())
        return {id_: int(match[1]) for id_, match in found if match}

    @cached_property
    def special(self) -> frozenset[int]:
        """Tokens that are no text: those that the tokenizer calls special, or that look so."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(
            id_ for id_, each in added.items() if each.special or _MARK.fullmatch(each.content)
        )

    @cached_property
    def _kinds(self) -> dict[int, str]:
        """The kind of each special token, see `kinds`."""
        known = _POLYGON_MARKS.keys() & self._ids.keys()
        marks = {self._ids[mark]: _POLYGON_MARKS[mark] for mark in known}
        return dict.fromkeys(self.special, "x") | dict.fromkeys(self.bins, "l") | marks

    def kinds(self, ids: Iterable[int]) -> str:
        """A letter for each token: `t`ext, `l`ocation, <`s`ep>, <`p`oly>, </poly> `q`, else `x`."""
        return "".join(self._kinds.get(id_, "t") for id_ in ids)

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token, and so the most characters that one can stand for."""
        return max(map(len, self._ids))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def id(self, token: str) -> int:
        """The id of a special token such as `</s>`.

        Raises:
            SetupError: the tokenizer lacks it.
        """
        try:
            return self._ids[token]
        except KeyError:
            raise SetupError(f"the checkpoint's tokenizer has no token {token}") from None

    def token(self, id_: int) -> str:
        """The token of an id, as the tokenizer spells it."""
        return str(self._tokenizer.id_to_token(id_))

    @cached_property
    def frame(self) -> frozenset[int]:
        """The ids of `<s>`, `</s>` and `<pad>`."""
        return frozenset(map(self.id, ("<s>", "</s>", "<pad>")))

    def encode(self, sentence: str) -> list[int]:
        """Ids of `sentence`, framed as the encoder expects: `<s> sentence </s>`."""
        plain = self._tokenizer.encode(sentence, add_special_tokens=False).ids
        return [self.id("<s>"), *plain, self.id("</s>")]

    def text(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def decode(self, ids: Iterable[int]) -> str:
        """The same without outer white space."""
        return self.text(ids).strip()

    def special_in(self, ids: Iterable[int]) -> set[str]:
        """The special tokens among `ids`."""
        return {self.token(id_) for id_ in self.special.intersection(ids)}

    def trim(self, ids: Sequence[int]) -> tuple[int, ...]:
        """`ids` of an answer without its frame: from after `</s><s>` up to the next `</s>`."""
        return tuple(takewhile(lambda id_: id_ not in self.frame, ids[self.start(ids) :]))

    def start(self, ids: Sequence[int]) -> int:
        """Where an answer begins in `ids`: after `</s><s>`."""
        return next((i for i, id_ in enumerate(ids) if id_ not in self.frame), len(ids))
