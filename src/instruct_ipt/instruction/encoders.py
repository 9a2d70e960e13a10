"""Text -> numbers: n-grams by default, with no download; a pretrained sentence encoder can take their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from instruct_ipt.errors import InputError
from instruct_ipt.instruction import rules

NGRAM = "ngram"
# Of what the rules see, beside unit rows; on validation texts better than 0 and 1.
CUE_WEIGHT = 0.3


class Encoder(Protocol):
    """Turns texts into rows of features."""

    def fit(self, texts: Sequence[str]) -> None:
        """Learn what can be learned from the training texts (the vocabulary; nothing for a pretrained encoder)."""

    def encode(self, texts: Sequence[str]) -> Any:
        """Features, (N, F), a dense array or a sparse matrix, float32."""

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What :func:`restore` needs: plain values (JSON types), and arrays."""


class NgramEncoder:
    """TF-IDF of character and word n-grams, with what the rules see (:data:`rules.CUES`) beside.

    Args:
        characters: shortest and longest run of characters, inside words.
        words: shortest and longest run of words.
        least: training texts that an n-gram has to occur in, >= 1.
    """

    def __init__(self, characters: tuple[int, int], words: tuple[int, int], least: int) -> None:
        self._settings = {"characters": list(characters), "words": list(words), "least": least}
        self._parts: list[Any] = []

    def fit(self, texts: Sequence[str]) -> None:
        """Learn the vocabulary and the document frequencies."""
        self._parts = [_vectorizer(analyzer, self._settings) for analyzer in ("char_wb", "word")]
        for part in self._parts:
            part.fit([rules.normalise(text) for text in texts])

    def encode(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(N, F), sparse, float32."""
        plain = [rules.normalise(text) for text in texts]
        cues = sparse.csr_matrix(_cues(plain))
        return sparse.hstack([*(part.transform(plain) for part in self._parts), cues], "csr", np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and vocabularies; the inverse document frequencies."""
        names = [part.get_feature_names_out().tolist() for part in self._parts]
        weights = {f"idf.{i}": part.idf_.astype(np.float32) for i, part in enumerate(self._parts)}
        return {"encoder": NGRAM, **self._settings, "vocabularies": names}, weights

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> NgramEncoder:
        """The encoder that gave this state."""
        found = cls(tuple(values["characters"]), tuple(values["words"]), values["least"])
        for i, (analyzer, names) in enumerate(zip(("char_wb", "word"), values["vocabularies"], strict=True)):
            part = _vectorizer(analyzer, found._settings, names)
            part.idf_ = arrays[f"idf.{i}"].astype(np.float64)
            found._parts.append(part)
        return found


def _cues(texts: Sequence[str]) -> np.ndarray:
    return CUE_WEIGHT * np.array([rules.cues(text) for text in texts], np.float32)


def _vectorizer(analyzer: str, settings: dict[str, Any], vocabulary: list[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    size = tuple(settings["characters" if analyzer == "char_wb" else "words"])
    return TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=size,
        min_df=settings["least"],
        sublinear_tf=True,
        # Also words of one letter, and "don't" in one piece.
        token_pattern=r"(?u)\b\w[\w']*\b" if analyzer == "word" else None,
        vocabulary=vocabulary,
        dtype=np.float32,
    )


class SentenceEncoder:
    """A pretrained sentence encoder, through `sentence-transformers` (``pip install instruct-ipt[sentences]``).

    Args:
        name: name of a model, or a folder that holds one.

    Raises:
        InputError: the library is missing, or the model cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError(
                f"instruction.encoder is {name!r}, which needs pip install 'instruct-ipt[sentences]',"
                f" or set it to {NGRAM}"
            ) from None
        self.name = name
        try:
            self._model = SentenceTransformer(name, device="cpu")
        except (OSError, ValueError) as error:
            where = "is not a folder with a model" if Path(name).exists() else "is neither a folder nor a model at hand"
            raise InputError(f"instruction.encoder: {name!r} {where}: {str(error).splitlines()[0]}") from None

    def fit(self, texts: Sequence[str]) -> None:
        """Nothing: the encoder is pretrained."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, F), unit rows, with what the rules see beside, float32."""
        rows = self._model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True)
        return np.hstack([np.asarray(rows, np.float32), _cues([rules.normalise(text) for text in texts])])

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The model's name: its weights stay where they are."""
        return {"encoder": self.name}, {}


def build(name: str, characters: tuple[int, int], words: tuple[int, int], least: int) -> Encoder:
    """A fresh encoder: ``ngram``, or the name or folder of a sentence encoder."""
    return NgramEncoder(characters, words, least) if name == NGRAM else SentenceEncoder(name)


def restore(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> Encoder:
    """The encoder whose :meth:`Encoder.state` was kept."""
    return NgramEncoder.from_state(values, arrays) if values["encoder"] == NGRAM else SentenceEncoder(values["encoder"])
