"""The rules in front of the head: clauses, what each wants (do, leave, add), and how much.

A sentence is cut at punctuation and conjunctions. A clause that leaves something as it is ("the fog is fine") or that
asks for damage ("add some rain") is taken out; the head sees what is left. The word lists stand in `words.yaml`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import yaml

Wish = Literal["do", "leave", "add"]
WEAK, PLAIN, STRONG = 0.5, 1.0, 1.5
_GAP = r"(?:[\W_]+\w+(?:['’-]\w+)*){0,4}?"
_NO_SPACES = re.compile("[⺀-鿿぀-ヿ가-힯]")
_BARE_NAME = re.compile(r"(?:both )?(?:the |this |that |my )\w+(?: \w+)?")


@dataclass(frozen=True)
class Clause:
    """A part of a sentence.

    Attributes:
        text: as :func:`normalise` gives it.
        wish: ``do`` (to be read by the head), ``leave`` (what it names stays) or ``add`` (it asks for damage).
    """

    text: str
    wish: Wish


def normalise(text: str) -> str:
    """Lower case, no accents, plain apostrophes, single spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("`", "'")
    letters = (c for c in unicodedata.normalize("NFKD", plain) if not "\u0300" <= c <= "\u036f")
    return " ".join(unicodedata.normalize("NFC", "".join(letters)).split())


def clauses(text: str) -> list[Clause]:
    """The clauses of a sentence in order, each with its wish.

    A clause without a verb of its own goes on with the one before it: in "add rain and snow" both are added, in "keep
    the rain and the fog" both stay. After "not the noise, the blur" nothing goes on: that is a contrast.
    """
    found: list[Clause] = []
    before = ""
    for joint, part in _parts(_everything_but(normalise(text))):
        own = _own_wish(part)
        if joint == "except":
            wish = "leave" if before == "removal" else "do"
        elif own in ("not", "leaving", "praise"):
            wish = "leave"
        elif own == "add":
            wish = "add"
        elif own == "bare" and joint == "list" and before in ("leaving", "add") and len(part.split()) <= 3:
            own, wish = before, ("add" if before == "add" else "leave")
        else:
            wish = "do"
        if own == "bare" and before == "bare" and found and _regex("add_that").search(part):
            found[-1], wish = Clause(found[-1].text, "add"), "add"
        if (
            own in ("leaving", "praise")
            and joint == "list"
            and before == "bare"
            and _BARE_NAME.fullmatch(found[-1].text)
        ):
            found[-1] = Clause(found[-1].text, "leave")  # "the rain and the fog can stay"
        found.append(Clause(part, wish))
        before = own
    return found


def pieces(parts: Sequence[Clause], text: str) -> list[str]:
    """What the head reads: all of a (normalised) text that is to be done, then each clause of it if there are several.

    Words of politeness are taken off. Empty when nothing is to be done. A clause of one word stands alone only if it
    names a damage or what to do about it: the "white" of "black and white" says nothing by itself.
    """
    done = [part.text for part in parts if part.wish == "do"]
    if not done:
        return []
    whole = text if len(done) == len(parts) else " , ".join(done)
    each = [part for part in done if " " in part or _says_something(part)] if len(done) > 1 else []
    return [_stripped(piece) for piece in (whole, *each)]


def strength(text: str) -> float:
    """How much is asked for, in [0, 1.5]: a number of per cent, :data:`WEAK`, :data:`STRONG`, or else :data:`PLAIN`."""
    plain = normalise(text)
    percent = re.search(r"(\d{1,3}) ?(?:%|percent|per cent|prozent)", plain)
    if percent:
        return min(int(percent[1]) / 100, STRONG)
    if _regex("weak").search(plain):
        return WEAK
    return STRONG if _regex("strong").search(plain) else PLAIN


def cues(text: str) -> list[float]:
    """What the rules see in a text, 0 or 1 each, for the head: :data:`CUES`."""
    found = [bool(_regex(name).search(text)) for name in CUES[:-1]]
    taken = [match[0] for match in _regex("taken").finditer(text)]
    return [float(value) for value in (*found, any(not _regex("named").search(thing) for thing in taken))]


# Lists of `words.yaml`; the last says that something else than a damage is to be taken away.
CUES: tuple[str, ...] = (
    "noise", "blur", "rain", "haze", "snow", "quality", "removal", "adding", "wanting", "question", "taken",
)  # fmt: skip


def _says_something(word: str) -> bool:
    return bool(_regex("named").search(word) or _regex("removal").search(word))


def _stripped(text: str) -> str:
    """``text`` (normalised) without the words of politeness; the text itself if nothing is left."""
    return " ".join(_regex("polite").sub(" ", text).split()).strip(" ,;") or text


def _own_wish(part: str) -> str:
    """What a clause says by itself: add, not, removal, leaving, praise or bare."""
    adding = _regex("add").search(part)
    if adding and not _regex("add_excuse").search(part) and not _regex("quality").search(part, adding.start()):
        return "add"
    if _regex("dull").search(part) and not _regex("damage").search(part):
        return "add"
    if _regex("not").search(part) and not _regex("not_excuse").search(part):
        return "not"
    if _regex("removal").search(part):
        return "removal"
    if _regex("leaving").search(part):
        return "leaving"
    if _regex("praise").search(part) and not _regex("no_praise").search(part):
        return "praise"
    return "bare"


def _everything_but(text: str) -> str:
    """Turn "everything but the fog is fine" into what it says about the fog."""
    but = r"(?:but|except(?: for)?|apart from|other than)"
    good = r"(?:is|are|looks?) (?:fine|ok|okay|good|great|alright|perfect)"
    return re.sub(rf"\b(?:everything|all|nothing)\b {but} (.+?) {good}\b", r"remove \1", text)


@functools.cache
def _splitter() -> re.Pattern[str]:
    ahead = r"(?=\b(?:without \w+ing|rather than|instead of|not the|but not)\b)"
    stop = rf"(?P<stop>[.!?]+(?=\s|$)|[;:|()\n]|\s[-–—]+\s|->|{ahead})"
    kinds = "|".join(rf"(?P<{name}>{_alternation(name)})" for name in ("except", "contrast"))
    return re.compile(rf"{stop}|{kinds}|(?P<list>[,+&/、，]|{_alternation('list')})")


def _parts(text: str) -> list[tuple[str, str]]:
    """(joint, text) of the parts between separators; the joint says how a part hangs on the one before it."""
    parts, joint, start = [], "stop", 0
    for match in _splitter().finditer(text):
        piece = text[start : match.start()].strip(" ,")
        if piece:
            parts.append((joint, piece))
            joint = match.lastgroup or "stop"
        elif joint in ("list", "stop") or match.lastgroup == "except":
            joint = match.lastgroup or "stop"  # ", but" is a contrast
        start = match.end()
    last = text[start:].strip(" ,")
    return [*parts, (joint, last)] if last else parts


@functools.cache
def _words() -> dict[str, list[str]]:
    text = (files(__package__) / "words.yaml").read_text(encoding="utf-8")
    return {name: [normalise(str(entry)) for entry in entries] for name, entries in yaml.safe_load(text).items()}


@functools.cache
def _alternation(name: str) -> str:
    """One regular expression for a list of `words.yaml`, longest entries first."""
    entries = sorted(_words()[name], key=len, reverse=True)
    words = [entry for entry in entries if entry[0].isalnum() and not _NO_SPACES.search(entry)]
    others = [_expression(entry) for entry in entries if entry not in words]
    # One test for the start of a word in front of all entries: ten times faster than one in each.
    inside = r"\b(?:" + "|".join(_expression(entry).removeprefix(r"\b") for entry in words) + ")" if words else ""
    return "(?:" + "|".join(filter(None, [inside, *others])) + ")"


@functools.cache
def _regex(name: str) -> re.Pattern[str]:
    return re.compile(_alternation(name))


def _expression(entry: str) -> str:
    tokens = entry.split()
    starts, ends = tokens[0] == "...", tokens[-1] == "..."
    pieces, glue = [], ""
    for token in tokens[starts : len(tokens) - ends]:
        if token == "..":
            glue = _GAP + r"[\W_]+" if not _NO_SPACES.search(entry) else ".{0,6}"
            continue
        pieces.append((glue if pieces else "") + _token(token))
        glue = r"[\W_]+"
    return (r"^\W*" if starts else "") + "".join(pieces) + (r"\W*$" if ends else "")


def _token(token: str) -> str:
    if token.startswith("<"):
        return _alternation(token[1:-1])
    if token == "*":
        return r"\b\w+\b"
    if _NO_SPACES.search(token):
        return re.escape(token)
    return r"\b" + re.escape(token.rstrip("*")) + (r"\w*" if token.endswith("*") else r"(?!\w)")
