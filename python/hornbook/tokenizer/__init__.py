"""From text to numbers and back: byte-level BPE, and two simpler tokenizers to compare it with."""

from .base import StreamDecoder, TokenizerLike, id_dtype
from .bpe import Tokenizer
from .counts import Counts
from .replay import replay
from .show import page, show
from .simple import CharTokenizer, WordTokenizer, load
from .template import Template

__all__ = [
    "CharTokenizer",
    "Counts",
    "StreamDecoder",
    "Template",
    "Tokenizer",
    "TokenizerLike",
    "WordTokenizer",
    "id_dtype",
    "load",
    "page",
    "replay",
    "show",
]
