"""From lines of text to token ids: bytes as they are, or sub-words."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from dataecho.errors import SettingError, require

#: The token that ends a line, in vocabularies of sub-words.
END = "<end>"


class Tokenizer(abc.ABC):
    """Every line by itself, and after it one token that ends it: the cut into reads changes nothing."""

    @property
    @abc.abstractmethod
    def num_tokens(self) -> int:
        """Ids are 0 to ``num_tokens`` - 1."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Short hexadecimal name of the vocabulary: with another one, ids mean something else."""

    @abc.abstractmethod
    def lengths(self, lines: Sequence[bytes]) -> NDArray[np.int64]:
        """Number of tokens of every line, its end included. What is not UTF-8 counts as if it were replaced."""

    @abc.abstractmethod
    def encode(self, lines: Sequence[bytes]) -> NDArray[np.int32]:
        """The tokens of all lines, one after the other. Raises ``UnicodeDecodeError``."""

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of any tokens, for a person: lines end as they did; what is no text, as half of a letter of two
        bytes, is replaced."""


class ByteTokenizer(Tokenizer):
    """One token per byte of UTF-8, 256 in all; the newline ends a line."""

    @property
    def num_tokens(self) -> int:
        return 256

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"bytes").hexdigest()[:32]

    def lengths(self, lines: Sequence[bytes]) -> NDArray[np.int64]:
        return np.fromiter((len(line) + 1 for line in lines), dtype=np.int64, count=len(lines))

    def encode(self, lines: Sequence[bytes]) -> NDArray[np.int32]:
        text = b"".join(line + b"\n" for line in lines)
        text.decode()
        return np.frombuffer(text, dtype=np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class SubwordTokenizer(Tokenizer):
    """Sub-words from a file of the ``tokenizers`` library that has a token ``<end>``, as
    ``python -m dataecho_tasks.shared.text.train_tokenizer`` writes it. Raises :class:`SettingError` for another."""

    def __init__(self, path: str) -> None:
        cure = "Make one from the training data: python -m dataecho_tasks.shared.text.train_tokenizer --help."
        try:
            self._load(Path(path).expanduser().read_bytes())
        except Exception as error:  # the library raises Exception itself
            reason = str(error).partition("\n")[0]
            raise SettingError(
                "path", path, allowed="a file of the tokenizers library", cure=f"{reason}. {cure}"
            ) from None
        end = self._tokenizer.token_to_id(END)
        require(end is not None, "path", path, allowed=f"a vocabulary with the token {END}", cure=cure)
        self._end = end

    def _load(self, content: bytes) -> None:
        self._content = content
        self._tokenizer = HuggingFaceTokenizer.from_buffer(content)
        self._tokenizer.encode_special_tokens = True  # "<end>" in a text is text

    def __getstate__(self) -> dict[str, object]:
        return {"content": self._content, "end": self._end}

    def __setstate__(self, state: dict[str, object]) -> None:
        content = state["content"]
        assert isinstance(content, bytes)
        self._end = state["end"]
        self._load(content)

    @property
    def num_tokens(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._content).hexdigest()[:32]

    def lengths(self, lines: Sequence[bytes]) -> NDArray[np.int64]:
        encoded = self._tokenizer.encode_batch_fast(
            [line.decode(errors="replace") for line in lines], add_special_tokens=False
        )
        return np.fromiter((len(one) + 1 for one in encoded), dtype=np.int64, count=len(lines))

    def encode(self, lines: Sequence[bytes]) -> NDArray[np.int32]:
        ids: list[int] = []
        for line in lines:
            ids += self._tokenizer.encode(line.decode(), add_special_tokens=False).ids
            ids.append(self._end)
        return np.array(ids, dtype=np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        lines: list[list[int]] = [[]]
        for token in tokens:
            if token == self._end:
                lines.append([])
            else:
                lines[-1].append(token)
        return "\n".join(self._tokenizer.decode(line) for line in lines)
