"""Slips of the keys: a word that the corpus does not know becomes the known word one slip away."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from string import ascii_lowercase

_WORD = re.compile(r"[a-z]+")
SHORTEST = 4


class Speller:
    """Corrects words of four letters and more, in texts as :func:`instruct_ipt.instruction.rules.normalise` gives them.

    Args:
        known: words that stay as they are, with how often they occur; the most frequent candidate wins.
    """

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known
        self._correct = functools.lru_cache(maxsize=4096)(self._search)

    @classmethod
    def learn(cls, texts: Iterable[str]) -> Speller:
        """A speller that knows the words of ``texts``, which must be normalised and spelt well."""
        return cls(dict(sorted(Counter(word for text in texts for word in _WORD.findall(text)).items())))

    def __call__(self, text: str) -> str:
        """``text`` with unknown words replaced where a known one is one letter away; everything else stays."""
        return _WORD.sub(lambda match: self._correct(match[0]), text)

    def _search(self, word: str) -> str:
        if len(word) < SHORTEST or word in self.known:
            return word
        # A slip in the first letter is rare, and would make "brain" of "train".
        found = [w for w in _one_slip(word) if len(w) >= 3 and w in self.known]
        return max(found, key=lambda w: (self.known[w], w), default=word)


def _one_slip(word: str) -> Iterator[str]:
    """What ``word`` may have been before two letters were swapped, or one was added, lost or mistaken."""
    if len(word) > 1:
        yield word[1] + word[0] + word[2:]
    for i in range(1, len(word) + 1):
        head, tail = word[:i], word[i:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        if tail:
            yield head + tail[1:]
        for letter in ascii_lowercase:
            yield head + letter + tail
            if tail:
                yield head + letter + tail[1:]
