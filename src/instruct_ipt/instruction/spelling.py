"""Slips of the keys: a word that the corpus does not know becomes the known word one slip away."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from string import ascii_lowercase

_WORD = re.compile(r"[a-z]+")
SHORTEST, LONGEST = 4, 20


class Speller:
    """Corrects words of 4 to 20 letters, in texts as :func:`instruct_ipt.instruction.rules.normalise` gives them.

    Args:
        known: words that stay as they are, with how often they occur; of several candidates
            the commoner slip wins, then the more frequent word.
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
        if not SHORTEST <= len(word) <= LONGEST or word in self.known:
            return word
        # A slip in the first letter is rare, and would make "brain" of "train".
        found = [(common, self.known[w], w) for common, w in _one_slip(word) if len(w) >= 3 and w in self.known]
        return max(found)[-1] if found else word


def _one_slip(word: str) -> Iterator[tuple[bool, str]]:
    """What ``word`` may have been before one slip, and whether the slip is a common one.

    Common: two letters swapped, one lost, one doubled. Else one letter was added or mistaken.
    """
    yield True, word[1] + word[0] + word[2:]
    for i in range(1, len(word) + 1):
        head, tail = word[:i], word[i:]
        if len(tail) > 1:
            yield True, head + tail[1] + tail[0] + tail[2:]
        if tail:
            yield head[-1] == tail[0], head + tail[1:]
        for letter in ascii_lowercase:
            yield True, head + letter + tail
            if tail:
                yield False, head + letter + tail[1:]
