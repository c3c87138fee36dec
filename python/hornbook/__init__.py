"""A large language model from scratch.

>>> import hornbook as hb
>>> tok = hb.Tokenizer.train(["so much depends upon"], vocab_size=260)
>>> tok.decode(tok.encode("upon"))
'upon'

The names below are imported when they are first used, so that a tokenizer needs no torch and
``hornbook --help`` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "CharTokenizer": "tokenizer",
    "GPT": "model",
    "GPTConfig": "model",
    "HornbookError": "errors",
    "TokenData": "data",
    "Tokenizer": "tokenizer",
    "TrainConfig": "train",
    "Trainer": "train",
    "WordTokenizer": "tokenizer",
    "generate": "sample",
    "kernels_in_use": "ops",
    "load": "interop",
    "stream": "sample",
    "use_kernels": "ops",
}

if TYPE_CHECKING:
    from .data import TokenData as TokenData
    from .errors import HornbookError as HornbookError
    from .interop import load as load
    from .model import GPT as GPT
    from .model import GPTConfig as GPTConfig
    from .ops import kernels_in_use as kernels_in_use
    from .ops import use_kernels as use_kernels
    from .sample import generate as generate
    from .sample import stream as stream
    from .tokenizer import CharTokenizer as CharTokenizer
    from .tokenizer import Tokenizer as Tokenizer
    from .tokenizer import WordTokenizer as WordTokenizer
    from .train import TrainConfig as TrainConfig
    from .train import Trainer as Trainer

__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # an eighth of what `import Tokenizer` would take

        return metadata.version("hornbook")
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
