"""Tokenizers that other libraries hold in memory: tiktoken's, and those of `tokenizers` and `transformers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .._core import BPE
from ..errors import TokenizerError
from .fields import parse
from .formats import ordinary, warn_of_ranks
from .huggingface import from_json, roles, to_json
from .ranked import ranked_pattern
from .template import Extras

if TYPE_CHECKING:
    import tiktoken
    import tokenizers
    import transformers

    from .exchange import Exchange


def from_tiktoken(encoding: str | tiktoken.Encoding) -> BPE:
    """What `Tokenizer.from_tiktoken` does."""
    if isinstance(encoding, str):
        try:
            import tiktoken
        except ImportError:
            raise TokenizerError(
                "from_tiktoken with a name needs the package tiktoken (pip install tiktoken), which knows where the "
                "files are; or load a .tiktoken file with Tokenizer.load"
            ) from None
        try:
            encoding = tiktoken.get_encoding(encoding)
        except ValueError as error:
            raise TokenizerError(f"tiktoken has no encoding {encoding!r}: {error}") from None
        except Exception as error:
            raise TokenizerError(
                f"tiktoken could not get {encoding!r} ({type(error).__name__}: {error}). Without a network, set "
                "TIKTOKEN_CACHE_DIR to a folder that holds its files"
            ) from None
    tokens = [(id, token) for token, id in encoding._mergeable_ranks.items()]
    return BPE(tokens, list(encoding._special_tokens.items()), None, True, encoding._pat_str)


def to_tiktoken(tokenizer: Exchange) -> tiktoken.Encoding:
    """What `Tokenizer.to_tiktoken` does."""
    try:
        import tiktoken
    except ImportError:
        raise TokenizerError("to_tiktoken needs the package tiktoken: pip install tiktoken") from None
    pattern = ranked_pattern(tokenizer._core)
    warn_of_ranks(tokenizer)
    if pattern is None:
        pattern = r"[\s\S]+"
    elif tokenizer._core.known_scanner:
        pattern = tokenizer._core.regex or pattern  # it has a name here
    return tiktoken.Encoding(
        f"hornbook-{tokenizer.hash[:12]}",
        pat_str=pattern,
        mergeable_ranks=ordinary(tokenizer),
        special_tokens=tokenizer.special_tokens,
    )


def to_huggingface(tokenizer: Exchange, options: dict[str, Any]) -> transformers.PreTrainedTokenizerFast:
    """What `Tokenizer.to_huggingface` does."""
    try:
        from tokenizers import Tokenizer as Backend
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise TokenizerError(
            f"to_huggingface needs the package transformers (pip install transformers): {error}"
        ) from None
    backend = Backend.from_str(json.dumps(to_json(tokenizer)))
    known = {**roles(tokenizer), "clean_up_tokenization_spaces": False, **options}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **known)


def from_huggingface(
    tokenizer: tokenizers.Tokenizer | transformers.PreTrainedTokenizerFast,
) -> tuple[BPE, Extras]:
    """What `Tokenizer.from_huggingface` does."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    to_str = getattr(backend, "to_str", None)
    if to_str is None:
        raise TokenizerError(
            f"expected a tokenizer of the packages tokenizers or transformers, got {type(tokenizer).__name__}; a path "
            "is for Tokenizer.load, and transformers' slow tokenizers have to be made fast ones first"
        )
    content = parse(to_str().encode())
    if backend is not tokenizer:
        # To transformers they are options of a call, of which the last stay behind.
        content |= {"truncation": None, "padding": None}
    return from_json(content)
