"""What a tokenizer.json says beyond the ids of a text: the tokens to put around it, and how to treat added tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import TokenizerError
from .fields import Field


@dataclass(frozen=True)
class Template:
    """Special tokens that belong around a text: Llama 3 begins with ``<|begin_of_text|>``.

    Attributes:
        prefix, suffix: special tokens before and after a text.
        pair: for two texts, which Hornbook does not encode together but keeps for `tokenizers`: special tokens, with
            "$A" and "$B" for the texts, each with its type id. None for prefix and suffix around each of the two.
    """

    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    pair: tuple[tuple[str, int], ...] | None = None

    def tokens(self) -> set[str]:
        """The special tokens that it names."""
        return {*self.prefix, *self.suffix, *(piece for piece, _ in self.pair or ())} - {"$A", "$B"}


@dataclass(frozen=True)
class Extras:
    """What is kept so that saving writes it again. None of it changes what `Tokenizer.encode` gives.

    Attributes:
        template: None if nothing belongs around a text.
        plain: added tokens that are not special to `tokenizers`: they stay when it decodes without special tokens.
        unk_token: never needed, as every byte has a token, but `transformers` has a place for it.
    """

    template: Template | None = None
    plain: frozenset[str] = frozenset()
    unk_token: str | None = None


def checked(prefix: Sequence[str], suffix: Sequence[str], special_tokens: Mapping[str, int]) -> Template | None:
    """A template of these special tokens, None if there are none. Raises TokenizerError for unknown ones."""
    for name, tokens in (("prefix", prefix), ("suffix", suffix)):
        if isinstance(tokens, str):
            raise TokenizerError(f"{name} is a sequence of special tokens; write ({tokens!r},)")
        for token in tokens:
            if token not in special_tokens:
                raise TokenizerError(f"{name} has {token!r}, which is no special token: {list(special_tokens)[:20]}")
    return Template(tuple(prefix), tuple(suffix)) if prefix or suffix else None


def to_processor(template: Template | None, special_tokens: Mapping[str, int]) -> dict[str, Any] | None:
    """The ``post_processor`` of a tokenizer.json."""
    if template is None:
        return None

    def piece(token: str, type_id: int) -> dict[str, Any]:
        if token in ("$A", "$B"):
            return {"Sequence": {"id": token[1], "type_id": type_id}}
        return {"SpecialToken": {"id": token, "type_id": type_id}}

    single, pair = _usual(template.prefix, template.suffix)
    return {
        "type": "TemplateProcessing",
        "single": [piece(*item) for item in single],
        "pair": [piece(*item) for item in (pair if template.pair is None else template.pair)],
        "special_tokens": {
            token: {"id": token, "ids": [special_tokens[token]], "tokens": [token]}
            for token in sorted(template.tokens(), key=lambda token: special_tokens[token])
        },
    }


def _usual(prefix: Sequence[str], suffix: Sequence[str]) -> tuple[tuple[tuple[str, int], ...], ...]:
    """The template of one text and of two: prefix and suffix around each."""
    one, two = (tuple((token, id) for token in (*prefix, text, *suffix)) for text, id in (("$A", 0), ("$B", 1)))
    return one, one + two


def from_processor(post: Field, special_tokens: Mapping[str, int]) -> Template | None:
    """The template of a ``post_processor``. Raises TokenizerError for one that is more than a template."""
    if post.value is None:
        return None
    if post["type"].value != "Sequence":
        return _template(post, special_tokens)
    found = [_template(step, special_tokens) for step in post.only(["type", "processors"])["processors"].list()]
    templates = [template for template in found if template is not None]
    if len(templates) > 1:
        raise post["processors"].refuse("more than one of them puts tokens around the text; expected one template")
    return templates[0] if templates else None


def _template(post: Field, special_tokens: Mapping[str, int]) -> Template | None:
    names = {id: token for token, id in special_tokens.items()}
    kind = post["type"].value
    if kind == "ByteLevel":  # it corrects the offsets of `tokenizers`, no ids
        post.only(["type", "add_prefix_space", "trim_offsets", "use_regex"])
        return None
    if kind in ("BertProcessing", "RobertaProcessing"):
        post.only(["type", "sep", "cls", *(["trim_offsets", "add_prefix_space"] if kind[0] == "R" else [])])
        (cls,), (sep,) = (_named(post[key], names) for key in ("cls", "sep"))
        pair = [(cls, 0), ("$A", 0), (sep, 0), ("$B", 1), (sep, 1)]
        if kind[0] == "R":
            pair = [(cls, 0), ("$A", 0), (sep, 0), (sep, 0), ("$B", 0), (sep, 0)]
        return Template((cls,), (sep,), tuple(pair))
    if kind != "TemplateProcessing":
        raise post["type"].refuse(
            "expected TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, or a Sequence of them"
        )
    post.only(["type", "single", "pair", "special_tokens"])
    single, pair = _pieces(post, "single", names), _pieces(post, "pair", names)
    texts = [piece for piece, _ in single if piece in ("$A", "$B")]
    if texts != ["$A"]:
        raise post["single"].refuse("expected the text, A, once among the tokens around it")
    for index, (_, type_id) in enumerate(single):
        if type_id:
            raise Field(type_id, f"{post['single'].path}[{index}], its type_id,").refuse("only the type 0 is kept")
    tokens = [piece for piece, _ in single]
    at = tokens.index("$A")
    prefix, suffix = tuple(tokens[:at]), tuple(tokens[at + 1 :])
    usual = tuple(pair) == _usual(prefix, suffix)[1]
    if usual and len(tokens) == 1:
        return None  # the template of those who have none
    return Template(prefix, suffix, None if usual else tuple(pair))


def _pieces(post: Field, key: str, names: Mapping[int, str]) -> list[tuple[str, int]]:
    """A template as special tokens and "$A" or "$B", each with its type id."""
    if post[key].value is None:
        raise post[key].refuse("expected a list of Sequence and SpecialToken")
    out: list[tuple[str, int]] = []
    for item in post[key].list():
        kinds = list(item.mapping())
        if kinds not in (["Sequence"], ["SpecialToken"]):
            raise item.refuse('expected {"Sequence": ...} or {"SpecialToken": ...}')
        piece = item[kinds[0]].only(["id", "type_id"])
        name, type_id = piece["id"].text(), piece["type_id"].id()
        if kinds == ["Sequence"]:
            if name not in ("A", "B"):
                raise piece["id"].refuse("a text of a template is A or B")
            out.append((f"${name}", type_id))
        else:
            about = post["special_tokens"][name].only(["id", "ids", "tokens"])
            if not about["ids"].value:
                raise about["ids"].refuse("expected the ids that this token of the template stands for")
            out += [(_name(id, names), type_id) for id in about["ids"].list()]
    return out


def _named(field: Field, names: Mapping[int, str]) -> list[str]:
    """The special token of a ["<s>", 0]."""
    items = list(field.list())
    if len(items) != 2:
        raise field.refuse("expected a token and its id")
    items[0].text()
    return [_name(items[1], names)]


def _name(id: Field, names: Mapping[int, str]) -> str:
    name = names.get(id.id())
    if name is None:
        raise id.refuse("a template puts added tokens around a text, and none has this id")
    if name in ("$A", "$B"):
        raise id.refuse(f"the token {name} would be taken for a text in the template")
    return name
