"""The part of `Tokenizer` that says what it is, and deals with the files and objects of other libraries."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from .._core import BPE
from .base import EOT, Ids, plain_ids
from .template import Extras, Template, checked

if TYPE_CHECKING:
    import tiktoken
    import tokenizers
    import transformers


class Exchange:
    """What a tokenizer is, where it comes from and what it becomes. `Tokenizer` is the class to use."""

    _core: BPE
    _specials: dict[str, int]
    _extras: Extras
    _hash: str | None = None

    @classmethod
    def _wrap(cls, core: BPE, extras: Extras = Extras()) -> Self:  # noqa: B008 (immutable)
        self = cls.__new__(cls)
        self._core = core
        self._specials = dict(core.special_tokens)
        self._extras = extras
        return self

    # ---- what it is ----

    @cached_property
    def vocab(self) -> dict[int, bytes]:
        """The bytes of every id, special tokens included."""
        return dict(self._core.tokens())

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges in order. With the rule "ranks", every way to make a token of two others, in the order of ids."""
        return self._core.merges()

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included: one more than the highest."""
        return self._core.vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return dict(self._specials)

    @property
    def eot_id(self) -> int | None:
        """The id of ``<|endoftext|>``, which ends a document; None if there is none."""
        return self._specials.get(EOT)

    @property
    def pattern(self) -> str | None:
        """What text is cut by before merging: "gpt2", "cl100k" or "o200k", a regex, or None for not at all.

        Letters, numbers and white space are those of Unicode 16.0, as in tiktoken: what later versions add is none.
        """
        return self._core.pattern

    @property
    def rule(self) -> str:
        """ "merges", "merges, whole pieces first" or "ranks"; see the class."""
        return self._core.rule

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of everything that decides ids: vocabulary, merges, rule, pattern, special tokens."""
        if self._hash is None:
            self._hash = hashlib.sha256(self._core.state()).hexdigest()
        return self._hash

    # ---- from others ----

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        pattern: str | None = "auto",
        special_tokens: Sequence[str] | Mapping[str, int] | None = None,
    ) -> Self:
        """Reads a directory, a tokenizer.json, a .tiktoken file, or vocab.json with merges.txt beside it.

        A directory may be Hornbook's, or one that ``save_pretrained`` of ``transformers`` wrote. ``pattern`` and
        ``special_tokens`` are for the formats that do not hold them: a .tiktoken file (those of OpenAI are known by
        their hash) and vocab.json + merges.txt (GPT-2's pattern; tokens that no merge makes are special).

        Of a tokenizer.json's pre-tokenizers, ByteLevel, Split with ByteLevel, and Digits with ByteLevel can be loaded.
        What it puts around a text becomes the `template`. Its added tokens become special tokens, whether they are
        special there or not: `tokenizers` always finds them in a text, ``encode`` where ``allowed_special`` says so.

        Raises TokenizerError for a file that is missing, broken, or says something that Hornbook would not do
        exactly; of a tokenizer.json the message names the field and what it holds.
        """
        from .formats import load

        return cls._wrap(*load(Path(path), pattern, special_tokens))

    @classmethod
    def from_vocab(
        cls,
        vocab: Mapping[int, bytes] | Mapping[bytes, int],
        merges: Iterable[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | Mapping[str, int] = (),
        *,
        pattern: str | None = "gpt2",
    ) -> Self:
        """From ``{id: bytes}`` or ``{bytes: id}`` and the merges in their order.

        Special tokens that the vocabulary holds keep their ids; the others get the next free ones. ``pattern`` is
        GPT-2's unless given, as this is GPT-2's format; pass ``tok.pattern`` to take another tokenizer apart and
        put it together again.
        """
        from .formats import from_vocab

        return cls._wrap(from_vocab(vocab, merges, special_tokens, pattern))

    @classmethod
    def from_tiktoken(cls, encoding: str | tiktoken.Encoding) -> Self:
        """From a name that tiktoken knows ("gpt2", "cl100k_base", "o200k_base", …) or one of its encodings.

        tiktoken finds the file: in its cache (``TIKTOKEN_CACHE_DIR``) or by download. The ids equal tiktoken's.
        """
        from .objects import from_tiktoken

        return cls._wrap(from_tiktoken(encoding))

    @classmethod
    def from_huggingface(cls, tokenizer: tokenizers.Tokenizer | transformers.PreTrainedTokenizerFast) -> Self:
        """From a tokenizer of ``tokenizers`` or ``transformers`` in memory, as `load` reads one from its file.

        Raises TokenizerError for anything that Hornbook would not do exactly.
        """
        from .objects import from_huggingface

        return cls._wrap(*from_huggingface(tokenizer))

    # ---- the template ----

    @property
    def template(self) -> Template | None:
        """The special tokens that belong around a text, as a tokenizer.json can say; None if there are none.

        ``encode`` does not add them, as tiktoken's does not: `apply_template` does.
        """
        return self._extras.template

    def apply_template(self, ids: Ids) -> list[int]:
        """``ids`` with the template's special tokens before and after them.

        ``tok.apply_template(tok.encode(text))`` is what ``tokenizers`` and ``transformers`` make of ``text``.
        """
        if self.template is None:
            return [int(id) for id in plain_ids(ids)]
        before, after = ([self._specials[t] for t in part] for part in (self.template.prefix, self.template.suffix))
        return [*before, *(int(id) for id in plain_ids(ids)), *after]

    def with_template(self, prefix: Sequence[str] = (), suffix: Sequence[str] = ()) -> Self:
        """The same tokenizer with another template: these special tokens around a text; without any, none.

        Raises TokenizerError for a token that is not among the special tokens.
        """
        template = checked(prefix, suffix, self._specials)
        return self._wrap(self._core, replace(self._extras, template=template))

    # ---- to others ----

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["huggingface", "gpt2", "tiktoken"] | None = None,
    ) -> None:
        """Writes the tokenizer; each file is complete or not there, whatever happens.

        A directory gets tokenizer.json, which `load`, ``tokenizers`` and ``transformers`` read to the same ids; a path
        that ends in .json is that file. ``format="tiktoken"``, or a path that ends in .tiktoken, writes ranks, with
        the pattern and the special tokens in a small file beside; ``format="gpt2"`` vocab.json and merges.txt.

        The rule "ranks" is written to tokenizer.json as all the merges that it allows, with ``ignore_merges``.
        What a format cannot hold (the template, a rule, a pattern) is said in a warning. Beside a .tiktoken file,
        a regex is written so that it takes in what it does not match, which the rule "ranks" would drop.

        Raises TokenizerError for a .tiktoken file with a regex that can match nothing: tiktoken panics there.
        """
        from .formats import save

        save(self, Path(path), format)

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same vocabulary as a ``tiktoken.Encoding``, which follows the rule "ranks".

        For a vocabulary that training made, the ids are equal on every text: training makes each token from one
        pair only, so the ranks say no more than the merges do. They can differ for a vocabulary put together by
        hand, where a token's bytes can also be reached by neighbours that are no listed pair: with the merges
        b+c, a+b, ab+c, "abc" is a|bc by the merges, and one token by the ranks. A warning says so then.

        Raises TokenizerError for a regex that can match nothing: tiktoken panics there.
        """
        from .objects import to_tiktoken

        return to_tiktoken(self)

    def to_huggingface(self, **options: Any) -> transformers.PreTrainedTokenizerFast:
        """The same tokenizer as a ``transformers.PreTrainedTokenizerFast``, whose ``save_pretrained`` writes a
        directory that ``AutoTokenizer`` and `load` read.

        Its ids equal those of ``encode(text, allowed_special="all")`` with the template applied: ``transformers``
        always finds special tokens in a text. The template's first token is its ``bos_token`` and the last its
        ``eos_token``, or else ``<|endoftext|>`` if there is one; ``options`` say otherwise, and more:
        ``pad_token="<pad>"``, ``model_max_length=1024``, ``chat_template=...``.
        """
        from .objects import to_huggingface

        return to_huggingface(self, options)
