"""A degradation that a person names as `module:function`: found, called, and held to what it promises."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instruct_ipt.errors import InputError

_PROMISE = "it gets float32 (H, W, 3) in [0, 1] and a numpy Generator, and has to give the same shape, type and range"


@dataclass(frozen=True)
class Damage:
    """A person's degradation.

    Attributes:
        name: `module:function`.
        function: takes float32 (H, W, 3) in [0, 1] and the Generator that every random number has to come from; gives
            float32 (H, W, 3) in [0, 1].
    """

    name: str
    function: Callable[[np.ndarray, np.random.Generator], Any]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The damaged image, float32 (H, W, 3) in [0, 1]; `image` stays as it is.

        Raises:
            InputError: the function failed, or gave something else.
        """
        try:
            found = self.function(image.copy(), rng)
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"--degradation {self.name} failed with {said}; IPT_DEBUG=1 shows where") from error
        if not isinstance(found, np.ndarray):
            raise self._broken(f"gave a {type(found).__name__}")
        if found.shape != image.shape:
            raise self._broken(f"gave shape {found.shape} for an image of {image.shape}")
        if found.dtype != np.float32:
            raise self._broken(f"gave {found.dtype}")
        low, high = float(found.min()), float(found.max())
        if not (low >= 0 and high <= 1):
            raise self._broken(f"gave values from {low:g} to {high:g}")
        return found

    def named(self, image: np.ndarray, name: str) -> np.ndarray:
        """`self(image, rng)` with random numbers that follow from the image's name alone: the same in every run."""
        seed = hashlib.sha256(f"{self.name}|{name}".encode()).digest()[:16]
        return self(image, np.random.default_rng(int.from_bytes(seed, "little")))

    def _broken(self, what: str) -> InputError:
        return InputError(f"--degradation {self.name} {what}; {_PROMISE}")


def load_damage(name: str) -> Damage:
    """The degradation `module:function`; the working directory is searched for the module too.

    Importing runs the module: it is the person's own code.

    Raises:
        InputError: there is no such module or function, or the module fails.
    """
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        raise InputError(f"--degradation {name!r} is not MODULE:FUNCTION, as in my_damage:fog")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"--degradation {name}: module {module} cannot be imported from {here}: {said}") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError(f"--degradation {name}: module {module} has no function {function!r}")
    return Damage(name, found)
