"""tokenizer.json in the shapes that published models have, templates, and the objects of other libraries.

The oracles are `tokenizers`, `transformers` and `tiktoken`; every vocabulary is trained here.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import hornbook
import pytest
from hornbook import Tokenizer
from hornbook.errors import TokenizerError
from hornbook.tokenizer import Template
from hornbook.tokenizer.huggingface import to_json
from hornbook.tokenizer.oniguruma import from_oniguruma, to_oniguruma
from hornbook.tokenizer.pretokenizer import DIGITS, LLAMA3, ends_alike

tokenizers = pytest.importorskip("tokenizers")

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NO_REGEX = {**BYTE_LEVEL, "use_regex": False}
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def template(prefix=(), suffix=(), pair=None, ids=None):
    """A TemplateProcessing, spelled out."""

    def pieces(text, type_id):
        around = [{"SpecialToken": {"id": t, "type_id": type_id}} for t in prefix]
        after = [{"SpecialToken": {"id": t, "type_id": type_id}} for t in suffix]
        return [*around, {"Sequence": {"id": text, "type_id": type_id}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": pieces("A", 0),
        "pair": [*pieces("A", 0), *pieces("B", 1)] if pair is None else pair,
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in {*prefix, *suffix}},
    }


def added(id, content, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id, "content": content, **usual, **flags}


@pytest.fixture(scope="module")
def model(stdlib_text):
    """The ``model`` of a file with 800 tokens, trained on GPT-2's pattern, so that other patterns find their tokens."""
    return to_json(Tokenizer.train([stdlib_text[:100_000]], 800, pattern="gpt2", special_tokens=()))["model"]


@pytest.fixture(scope="module")
def samples(odd_strings, stdlib_text):
    """Hard texts of characters that all libraries know, with special tokens in between."""
    import unicodedata

    known = unicodedata.ucd_3_2_0
    plain = [s for s in odd_strings if all(known.category(c) != "Cn" for c in s)][:1500]
    specials = ["<s>", "</s>", "<|endoftext|>", "<tool>", "    ", "<|begin_of_text|>", "<|eot_id|>"]
    mixed = [s[: len(s) // 2] + specials[i % 7] + s[len(s) // 2 :] + specials[i % 5] for i, s in enumerate(plain[:300])]
    return [*plain, *mixed, stdlib_text[:5000], "a 12 345\n  6 7\t8", "  9", "x \n 1", "", "١٢٣ ½² a1b22c333 "]


def file(model, pre, post=None, tokens=(), **changes):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(tokens),
        "normalizer": None,
        "pre_tokenizer": pre,
        "post_processor": post,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {**model, **changes},
    }


def shapes(model):
    """The files of well-known models, with our small vocabulary."""
    n = len(model["vocab"])
    lists = [merge.split(" ") for merge in model["merges"]]
    llama = {"<|begin_of_text|>": n, "<|end_of_text|>": n + 1, "<|eot_id|>": n + 2}
    roberta = {**model["vocab"], "<s>": n, "</s>": n + 1}
    roberta_post = {
        "type": "RobertaProcessing",
        "sep": ["</s>", n + 1],
        "cls": ["<s>", n],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    bert = {"type": "BertProcessing", "sep": ["</s>", n + 1], "cls": ["<s>", n]}
    eot = [added(n, "<|endoftext|>")]
    spaces = [added(n + 1, "    ", special=False, normalized=True), added(n + 2, "  ", special=False, normalized=True)]
    begin, two = template(["<|begin_of_text|>"], ids=llama), template(["<s>"], ["</s>"], ids=roberta)
    return {
        "GPT-2": file(model, BYTE_LEVEL, {**BYTE_LEVEL, "trim_offsets": False}, eot, unk_token="", merges=lists),
        "GPT-2, with its unk_token": file(model, BYTE_LEVEL, None, eot, unk_token="<|endoftext|>"),
        "Llama 3": file(
            model,
            sequence(split(LLAMA3), NO_REGEX),
            {"type": "Sequence", "processors": [{**BYTE_LEVEL, "trim_offsets": False}, begin]},
            [added(id, token) for token, id in llama.items()],
            ignore_merges=True,
            merges=lists,
        ),
        "Qwen 2.5, without NFC": file(
            model,
            sequence(split(LLAMA3.replace("{1,3}", "")), {**NO_REGEX, "trim_offsets": False}),
            {**NO_REGEX, "trim_offsets": False},
            [*eot, added(n + 1, "<tool>", special=False)],
        ),
        "GPT-4o": file(model, sequence(split(O200K, "Removed", True), NO_REGEX), None, eot),
        "GPT-4o, isolated and inverted": file(model, sequence(split(O200K, "Isolated", True), NO_REGEX), None, eot),
        "Mistral Nemo": file(model, sequence(split(TEKKEN), NO_REGEX), two, [added(n, "<s>"), added(n + 1, "</s>")]),
        "SmolLM": file(model, sequence({"type": "Digits", "individual_digits": True}, BYTE_LEVEL), None, eot),
        "StarCoder's relative": file(model, sequence({"type": "Digits", "individual_digits": False}, BYTE_LEVEL)),
        "RoBERTa": file(
            model,
            BYTE_LEVEL,
            roberta_post,
            [added(n, "<s>", normalized=True), added(n + 1, "</s>", normalized=True)],
            vocab=roberta,
            unk_token="<s>",
        ),
        "BERT's template": file(model, BYTE_LEVEL, bert, [added(n, "<s>"), added(n + 1, "</s>")], vocab=roberta),
        "CodeGen": file(model, BYTE_LEVEL, None, [*eot, *spaces]),
        "ByteLevel alone": file(model, NO_REGEX, {"type": "Sequence", "processors": [BYTE_LEVEL, BYTE_LEVEL]}, eot),
    }


SHAPES = list(shapes({"vocab": {}, "merges": []}))


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_published_models(name, model, samples, tmp_path):
    content = shapes(model)[name]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ours = Tokenizer.load(tmp_path)
    assert ours.special_tokens == {token["content"]: token["id"] for token in content["added_tokens"]}
    ours.save(tmp_path / "again")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    for text in samples:
        ids = ours.apply_template(ours.encode(text, allowed_special="all"))
        assert theirs.encode(text).ids == ids, repr(text)
        assert again.encode(text).ids == ids, repr(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text, allowed_special="all")
        assert again.decode(ids) == theirs.decode(ids)  # it leaves out what is special, and only that
    one, two = theirs.encode("a b", "c <s>"), again.encode("a b", "c <s>")
    assert (one.ids, one.type_ids) == (two.ids, two.type_ids)
    assert Tokenizer.load(tmp_path / "again") == ours
    for text in samples[::50]:
        assert Tokenizer.load(tmp_path / "again").encode_ordinary(text) == ours.encode_ordinary(text)


@pytest.mark.parametrize("pattern", ["cl100k", "gpt2", LLAMA3, *DIGITS.values()])
def test_spellings_that_other_libraries_know(pattern, stdlib_text, samples, tmp_path):
    """They know ByteLevel, Digits and Llama 3's regex, which is not cl100k's but leads to the same ids."""
    ours = Tokenizer.train([stdlib_text[:50_000]], 600, pattern=pattern)
    pre = to_json(ours)["pre_tokenizer"]
    first = pre if pattern == "gpt2" else pre["pretokenizers"][0]
    kinds = {"gpt2": "ByteLevel", DIGITS[True]: "Digits", DIGITS[False]: "Digits"}
    assert first["type"] == kinds.get(pattern, "Split")
    if first["type"] == "Split":
        assert first["pattern"]["Regex"] == LLAMA3
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path).pattern == ours.pattern
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*samples, "a\n  ", "\n \n\t ", " \r\n \xa0", "!\n\n \u3000", "\n" * 5 + " " * 9]:
        assert theirs.encode(text).ids == ours.encode(text, allowed_special="all"), repr(text)


def test_llama_3s_pattern_is_not_taken_for_cl100k_where_they_differ(tmp_path):
    """A token of white space goes on after its last newline: then the end of a text shows which pattern it was."""
    text = "x\n  " * 3
    ours = Tokenizer.train([text[:4]] * 9, 259, pattern="cl100k", special_tokens=())
    assert b"\n  " in ours.vocab.values()
    assert not ends_alike(ours.vocab.values(), ours.merges, False)
    content = to_json(ours)
    regex = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    assert regex != LLAMA3
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert theirs.encode("x\n  ").ids == ours.encode("x\n  ")
    # A file that claims it all the same is read as what it says to others.
    content["pre_tokenizer"]["pretokenizers"][0] |= {"pattern": {"Regex": LLAMA3}, "hornbook": "cl100k"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    read = Tokenizer.load(tmp_path)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert theirs.encode("x\n  ").ids == read.encode("x\n  ") != ours.encode("x\n  ")
    # Looked up whole, a piece may become a token that no merges lead to.
    assert ends_alike([b" ", b"\n"], [], True)
    assert not ends_alike([b" ", b"\n", b"  "], [], True)
    assert ends_alike([b" ", b"\n", b"  "], [(b"x", b"y"), (b" ", b" ")], True)


# ---- the template ----


def test_a_template_lives_as_long_as_the_tokenizer(stdlib_text, tmp_path):
    plain = Tokenizer.train([stdlib_text[:20_000]], 400, special_tokens=["<s>", "</s>", "<sep>"])
    assert plain.template is None
    assert plain.apply_template([1, 2]) == [1, 2]
    tok = plain.with_template(["<s>", "<sep>"], ["</s>"])
    s, end, sep = (tok.special_tokens[t] for t in ("<s>", "</s>", "<sep>"))
    assert tok.template == Template(("<s>", "<sep>"), ("</s>",))
    assert tok.apply_template([1, 2]) == [s, sep, 1, 2, end]
    assert tok.encode("def") == plain.encode("def")
    assert tok != plain
    assert tok.hash == plain.hash  # of what decides ids
    assert tok.with_template() == plain
    for other in [copy.copy(tok), copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))]:
        assert other == tok
        assert other.template == tok.template
        assert hash(other) == hash(tok)
    tok.save(tmp_path)
    assert Tokenizer.load(tmp_path) == tok
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("def f").ids == tok.apply_template(tok.encode("def f"))
    assert theirs.encode("a", "b").ids == tok.apply_template(tok.encode("a")) + tok.apply_template(tok.encode("b"))
    auto = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path)
    assert auto.encode("def f") == tok.apply_template(tok.encode("def f"))
    assert (auto.bos_token, auto.eos_token) == ("<s>", "</s>")
    with pytest.raises(TokenizerError, match="'<x>', which is no special token"):
        tok.with_template(["<x>"])
    with pytest.raises(TokenizerError, match=r"write \('<s>',\)"):
        tok.with_template("<s>")


def test_a_template_of_several_ids_for_a_token(model):
    n = len(model["vocab"])
    post = template(["<s>"], ids={"<s>": n})
    post["special_tokens"]["<s>"] |= {"ids": [n, n + 1], "tokens": ["<s>", "</s>"]}
    content = file(model, BYTE_LEVEL, post, [added(n, "<s>"), added(n + 1, "</s>")])
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    ours = Tokenizer.from_huggingface(theirs)
    assert ours.template == Template(("<s>", "</s>"))
    assert theirs.encode("x").ids == ours.apply_template(ours.encode("x"))


# ---- refusals ----


def in_split(**change):
    return lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(change)


def in_added(**change):
    return lambda c: c["added_tokens"][1].update(change)


def in_model(**change):
    return lambda c: c["model"].update(change)


def in_post(change):
    return lambda c: change(c["post_processor"]["processors"][1])


REFUSED = [
    (lambda c: c.update(version="2.0"), 'version is "2.0"'),
    (lambda c: c.update(truncation={"max_length": 5}), 'truncation is {"max_length": 5}: .* set truncation to null'),
    (lambda c: c.update(padding={"strategy": "BatchLongest"}), "padding is .* set padding to null"),
    (lambda c: c.update(normalizer={"type": "NFC"}), 'normalizer is {"type": "NFC"}: .* set normalizer to null'),
    (lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}), "normalizer is "),
    (lambda c: c.update(decoder={"type": "WordPiece"}), 'decoder.type is "WordPiece"'),
    (lambda c: c.update(comment="mine"), 'comment is "mine": this key is not known'),
    (lambda c: c.update(model=[]), r"model is \[\]: expected a JSON object"),
    (in_model(type="WordPiece"), 'model.type is "WordPiece"'),
    (in_model(dropout=0.1), "model.dropout is 0.1"),
    (in_model(byte_fallback=True), "model.byte_fallback is true"),
    (in_model(continuing_subword_prefix="##"), 'model.continuing_subword_prefix is "##"'),
    (in_model(end_of_word_suffix="</w>"), 'model.end_of_word_suffix is "</w>"'),
    (in_model(unk_token="<unk>"), 'model.unk_token is "<unk>": it is no token'),
    (in_model(ignore_merges="yes"), 'model.ignore_merges is "yes": expected true or false'),
    (in_model(greedy=True), "model.greedy is true: this key is not known"),
    (in_model(vocab=None), "model.vocab is missing or null"),
    (in_model(vocab=["a"]), r'model.vocab is \["a"\]: expected a JSON object'),
    (in_model(merges=None), "model.merges is missing or null"),
    (in_model(merges={}), "model.merges is {}: expected a list"),
    (lambda c: c["model"]["vocab"].update(a=-1), "model.vocab.a is -1: expected a token id"),
    (lambda c: c["model"]["vocab"].update(a=True), "model.vocab.a is true: expected a token id"),
    (lambda c: c["model"]["vocab"].update(a=1 << 40), r"model.vocab.a is 1099511627776: expected a token id"),
    (lambda c: c["model"]["vocab"].update(a=1.5), "model.vocab.a is 1.5: expected a token id"),
    (lambda c: c["model"]["vocab"].update({"漢字": 9999}), 'model.vocab.漢字 is 9999: .* alphabet'),
    (lambda c: c["model"]["vocab"].update({"a b": 1}), r'model.vocab\["a b"\] is 1: .* alphabet'),
    (lambda c: c["model"]["vocab"].update(zqzq=66), "model.vocab.zqzq is 66: the id is also that of"),
    (lambda c: c["model"]["vocab"].pop("\x21"), "model: the vocabulary has no token for byte 33"),
    (lambda c: c["model"]["merges"].append("zz qqq"), r'model.merges\[\d+\] is "zz qqq": .* is not in the voc'),
    (lambda c: c["model"]["merges"].append(["z"]), r'model.merges\[\d+\] is \["z"\]: expected two tokens'),
    (lambda c: c["model"]["merges"].append("a b c"), r'model.merges\[\d+\] is "a b c": expected two tokens'),
    (lambda c: c["model"]["merges"].append(7), r"model.merges\[\d+\] is 7: expected two tokens"),
    (lambda c: c["model"]["merges"].append(c["model"]["merges"][0]), r"model.merges\[\d+\] is .*listed before"),
    (lambda c: c.update(pre_tokenizer=None), "pre_tokenizer is missing or null"),
    (lambda c: c.update(pre_tokenizer={"type": "Metaspace"}), "pre_tokenizer is .*Metaspace"),
    (lambda c: c["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Digits"}), "pre_tokenizer is .*Sequence"),
    (lambda c: c["pre_tokenizer"]["pretokenizers"].insert(0, split(r"\d")), "pre_tokenizer .* found Split, Split, By"),
    (in_split(behavior="Removed"), r'pre_tokenizer.pretokenizers\[0\].invert is false: expected the behavior "Isol'),
    (in_split(behavior="MergedWithNext"), r'pre_tokenizer.pretokenizers\[0\].behavior is "MergedWithNext"'),
    (in_split(pattern={"String": " "}), r'pre_tokenizer.pretokenizers\[0\].pattern is {"String": " "}'),
    (in_split(pattern={"Regex": r"\p{L}{1,3}+"}), r"pretokenizers\[0\].pattern.Regex is .* read differently"),
    (in_split(pattern={"Regex": "("}), r'pre_tokenizer.pretokenizers\[0\].pattern.Regex is "\("'),
    (in_split(pattern={"Regex": 1}), r"pre_tokenizer.pretokenizers\[0\].pattern.Regex is 1: expected a string"),
    (lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), r"\[1\].add_prefix_space is true"),
    (lambda c: c["pre_tokenizer"]["pretokenizers"][1].pop("use_regex"), r"\[1\].use_regex is missing or null: with a"),
    (in_added(lstrip=True), r"added_tokens\[1\].lstrip is true: .*'</s>'"),
    (in_added(rstrip=True), r"added_tokens\[1\].rstrip is true: .*'</s>'"),
    (in_added(single_word=True), r"added_tokens\[1\].single_word is true: .*'</s>'"),
    (in_added(content="<s>"), r'added_tokens\[1\].content is "<s>": added tokens are different'),
    (in_added(content=""), r'added_tokens\[1\].content is ""'),
    (in_added(content=None), r"added_tokens\[1\].content is missing or null: expected a string"),
    (in_added(content="\ud800"), r"added_tokens\[1\].content is .*surrogate"),
    (in_added(id=None), r"added_tokens\[1\].id is missing or null"),
    (in_added(id=7), r"added_tokens\[1\].id is 7: model.vocab says \d+ for '</s>'"),
    (in_added(id=7, content="<x>"), r"added_tokens\[1\].id is 7: `tokenizers` would give it \d+ for '<x>'"),
    (in_added(content="a"), r"added_tokens\[1\].id is \d+: model.vocab says \d+ for 'a'"),
    (lambda c: c["added_tokens"].append(added(c["model"]["vocab"]["in"], "in")), r"merges\[\d+\] .*'in' is an added"),
    (
        lambda c: in_added(content="><", normalized=True, id=len(c["model"]["vocab"]))(c),
        r"added_tokens is .*'><' is normalized and '<s>' is not",
    ),
    (in_added(glue=1), r"added_tokens\[1\].glue is 1: this key is not known"),
    (lambda c: c.update(added_tokens={"<s>": 1}), "added_tokens is .* expected a list"),
    (lambda c: c.update(added_tokens=[3]), r"added_tokens\[0\] is 3: expected a JSON object"),
    (lambda c: c.update(post_processor={"type": "Mean"}), 'post_processor.type is "Mean": expected TemplateProc'),
    (lambda c: c["post_processor"]["processors"].append(c["post_processor"]["processors"][1]), "more than one"),
    (in_post(lambda p: p.pop("pair")), r"processors\[1\].pair is missing or null"),
    (in_post(lambda p: p.update(single="$A")), r'processors\[1\].single is "\$A": expected a list'),
    (in_post(lambda p: p["single"].pop()), r"processors\[1\].single is .*: expected the text, A, once"),
    (in_post(lambda p: p["single"].append(p["single"][1])), r"single is .*: expected the text, A, once"),
    (in_post(lambda p: p["single"][1]["Sequence"].update(id="B")), r"single is .*: expected the text, A, once"),
    (in_post(lambda p: p["single"][1]["Sequence"].update(id="C")), r'single\[1\].Sequence.id is "C"'),
    (in_post(lambda p: p["single"][0]["SpecialToken"].update(type_id=1)), r"single\[0\].* is 1: only the type 0"),
    (in_post(lambda p: p["single"].insert(0, {"Text": {}})), r'processors\[1\].single\[0\] is {"Text": {}}'),
    (in_post(lambda p: p["special_tokens"].clear()), r'special_tokens\["<s>"\] is missing or null'),
    (in_post(lambda p: p["special_tokens"]["<s>"].update(ids=[5])), r"ids\[0\] is 5: .* none has this id"),
    (in_post(lambda p: p["special_tokens"]["<s>"].update(ids=[])), r"ids is \[\]: expected the ids"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_what_would_not_be_exact_is_refused(model, tmp_path, change, words):
    n = len(model["vocab"])
    post = {"type": "Sequence", "processors": [BYTE_LEVEL, template(["<s>"], ids={"<s>": n})]}
    vocab = {**model["vocab"], "<s>": n, "</s>": n + 1}
    tokens = [added(n, "<s>"), added(n + 1, "</s>")]
    content = copy.deepcopy(file(model, sequence(split(LLAMA3), NO_REGEX), post, tokens, vocab=vocab))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    Tokenizer.load(tmp_path)
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=words) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")


def test_an_added_token_that_also_stands_for_other_text(model, tmp_path):
    """ "Ã©" is how "é" is spelled in GPT-2's alphabet: as a token of the vocabulary, it is what "é" becomes."""
    n = len(model["vocab"])
    content = file(model, BYTE_LEVEL, None, [added(n, "Ã©")], vocab={**model["vocab"], "Ã©": n}, ignore_merges=True)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert theirs.encode("é").ids == theirs.encode("Ã©").ids == [n]
    with pytest.raises(TokenizerError, match=r"added_tokens\[0\].content is .* also stands for 'é'"):
        Tokenizer.from_huggingface(theirs)
    content["model"]["ignore_merges"] = False
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    ours = Tokenizer.from_huggingface(theirs)
    for text in ("é", "Ã©", "éÃ©é"):
        assert ours.encode(text, allowed_special="all") == theirs.encode(text).ids


# ---- objects ----


def check_transformers(theirs, ours, samples):
    for text in samples:
        ids = ours.apply_template(ours.encode(text, allowed_special="all"))
        assert theirs.encode(text) == ids, repr(text)
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == ours.decode(ids)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", None, r"[a-z]+|\s+|[^a-z\s]+"])
def test_to_huggingface_and_back(pattern, stdlib_text, samples, tmp_path):
    transformers = pytest.importorskip("transformers")
    specials = ["<|endoftext|>", "<s>", "</s>", "<pad>"]
    plain = Tokenizer.train([stdlib_text[:50_000]], 500, pattern=pattern, special_tokens=specials)
    for ours, bos, eos in [
        (plain, "<|endoftext|>", "<|endoftext|>"),
        (plain.with_template(["<s>"], ["</s>"]), "<s>", "</s>"),
        (plain.with_template(["<s>"]), "<s>", "<|endoftext|>"),
    ]:
        theirs = ours.to_huggingface(pad_token="<pad>", model_max_length=77)
        assert isinstance(theirs, transformers.PreTrainedTokenizerFast)
        assert (theirs.bos_token, theirs.eos_token, theirs.unk_token) == (bos, eos, None)
        assert (theirs.pad_token_id, theirs.model_max_length) == (ours.special_tokens["<pad>"], 77)
        assert len(theirs) == ours.vocab_size
        check_transformers(theirs, ours, samples[::4])
        theirs.save_pretrained(tmp_path)
        auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert (auto.bos_token, auto.eos_token, auto.pad_token) == (bos, eos, "<pad>")
        check_transformers(auto, ours, samples[::4])
        assert Tokenizer.load(tmp_path) == ours
        theirs("a text that is long enough", truncation=True, max_length=2, padding="max_length")
        assert Tokenizer.from_huggingface(theirs) == ours
        assert Tokenizer.from_huggingface(theirs.backend_tokenizer.from_str(json.dumps(to_json(ours)))) == ours


def test_what_transformers_adds_is_found_again(stdlib_text, samples, tmp_path):
    """A tokenizer of ours that got new tokens there, and options that ours cannot keep."""
    pytest.importorskip("transformers")
    ours = Tokenizer.train([stdlib_text[:20_000]], 400)
    theirs = ours.to_huggingface()
    theirs.add_tokens(["<tool>"])
    theirs.add_special_tokens({"pad_token": "<pad>"})
    theirs.save_pretrained(tmp_path)
    back = Tokenizer.load(tmp_path)
    assert back.special_tokens == ours.special_tokens | {"<tool>": 400, "<pad>": 401}
    check_transformers(theirs, back, samples[::10])
    again = back.to_huggingface()
    ids = back.encode("a<tool>b<pad>c<|endoftext|>", allowed_special="all")
    assert again.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True) == "a<tool>bc"
    theirs.backend_tokenizer.enable_truncation(3)
    assert Tokenizer.from_huggingface(theirs) == back
    with pytest.raises(TokenizerError, match=r"truncation is .*set truncation to null"):
        Tokenizer.from_huggingface(theirs.backend_tokenizer)


@pytest.mark.parametrize("thing", ["gpt2", None, 3, object()])
def test_what_is_no_tokenizer(thing):
    with pytest.raises(TokenizerError, match=r"expected a tokenizer of the packages .*, got "):
        Tokenizer.from_huggingface(thing)


def test_options_that_transformers_refuses_are_its_own_errors(stdlib_text):
    pytest.importorskip("transformers")
    tok = Tokenizer.train([stdlib_text[:5000]], 300)
    assert tok.to_huggingface(unk_token="<|endoftext|>").unk_token == "<|endoftext|>"


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_a_trained_tokenizer_in_tiktoken(pattern, stdlib_text, samples):
    """No download: trained here, encoded there."""
    pytest.importorskip("tiktoken")
    ours = Tokenizer.train([stdlib_text[:300_000]], 3000, pattern=pattern, special_tokens=["<|endoftext|>", "<s>"])
    theirs = ours.to_tiktoken()
    for text in [*samples, stdlib_text[300_000:400_000]]:
        assert theirs.encode(text, allowed_special="all") == ours.encode(text, allowed_special="all"), repr(text)
        assert theirs.encode_ordinary(text) == ours.encode_ordinary(text)
    back = Tokenizer.from_tiktoken(theirs)
    assert (back.vocab, back.special_tokens, back.pattern) == (ours.vocab, ours.special_tokens, ours.pattern)
    assert back.encode(stdlib_text[:50_000]) == ours.encode(stdlib_text[:50_000])


# ---- the two dialects of regexes ----


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (r"^a|b$", r"\Aa|b\z"),
        (r"(?m:^)a|b(?m:$)", r"^a|b$"),
        (r"\p{L}+|\x{41}+|\P{L}++", r"\p{L}+|\x{41}+|\P{L}++"),
        (r"[^$\]^]+\^\$", r"[^$\]^]+\^\$"),
        (r"[[a-z]&&[^aeiou]]+", r"[[a-z]&&[^aeiou]]+"),
        (r"(?i:a)|(?<name>b)|(?<=c)d|(?>e+)", r"(?i:a)|(?<name>b)|(?<=c)d|(?>e+)"),
    ],
)
def test_regexes_are_respelled_both_ways(ours, theirs):
    assert to_oniguruma(ours) == theirs
    assert from_oniguruma(theirs) == ours.replace(r"\A", "^") if "^a" not in ours or "m:" in ours else True


@pytest.mark.parametrize("regex", [r"a{1,3}+", r"\h", r"\R", "(?s)a", "(?m)a", "(?x: a)", r"[[:alpha:]]", r"a{2}+"])
def test_regexes_that_mean_something_else_there_are_refused(regex):
    with pytest.raises(TokenizerError, match="read differently"):
        to_oniguruma(regex)
    with pytest.raises(TokenizerError, match="read differently"):
        from_oniguruma(regex)


@pytest.mark.parametrize("regex", [r"\b\w+\b", r"\B.\B|\s", r"^.|.$", r"[\w.]+|\W", r"\p{L}+|\p{N}{2}|[^\p{L}]"])
def test_regexes_give_the_same_pieces_there(regex, model, samples, tmp_path):
    """Loaded from there, saved, and loaded there again."""
    content = file(model, sequence(split(regex), NO_REGEX))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    ours = Tokenizer.from_huggingface(theirs)
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path) == ours
    for text in [*samples, "a²b c\u200dd e\u200cf ½g\nh\n\ni", "²\n³"]:
        ids = ours.encode(text)
        assert theirs.encode(text).ids == ids, repr(text)
        assert again.encode(text).ids == ids, repr(text)


def test_the_example_of_the_docs(stdlib_text):
    pytest.importorskip("transformers")
    page = (Path(__file__).parents[2] / "docs" / "tokenizer.md").read_text("utf-8")
    (code,) = [b for b in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "to_huggingface" in b]
    names = {"hb": hornbook, "texts": [stdlib_text[:20_000]]}
    exec(code, names)
    assert names["theirs"].bos_token == "<s>"
