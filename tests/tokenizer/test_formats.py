"""Files: what is written is read back, by us and by others, to the same ids; what we cannot do is refused."""

from __future__ import annotations

import base64
import itertools
import json

import pytest
from hornbook import Tokenizer
from hornbook.errors import TokenizerError
from hornbook.tokenizer.ranked import matches_nothing

PATTERNS = ["gpt2", "cl100k", "o200k", r"\w+|\s+|[^\w\s]+", r"[a-z]+|^.|x$|[\W7]", None]


@pytest.fixture(scope="module")
def by_pattern(stdlib_text):
    text = stdlib_text[:40_000]
    return {p: Tokenizer.train([text], 500, pattern=p, special_tokens=["<|endoftext|>", "<s>"]) for p in PATTERNS}


@pytest.fixture(scope="module")
def samples(odd_strings, stdlib_text):
    """Strings of characters that are as old as the tables of all libraries (Unicode 13)."""
    import unicodedata

    known = unicodedata.ucd_3_2_0
    plain = [s for s in odd_strings if all(known.category(c) != "Cn" for c in s)]
    assert len(plain) > 3000
    plain = [*plain[:4000], "a²½b\u200cc\u200d\nd½ x²", "\u200c", "²³"]
    return [*plain, stdlib_text[:30_000], "a<|endoftext|>b <s><s>\n", "  \n  ", "x\n\ny\n", "1234567"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokenizer_json_in_tokenizers(by_pattern, samples, tmp_path, pattern):
    tokenizers = pytest.importorskip("tokenizers")
    ours = by_pattern[pattern]
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    for text in samples:
        ids = ours.encode(text, allowed_special="all")
        assert theirs.encode(text).ids == ids, repr(text)
        assert theirs.decode(ids, skip_special_tokens=False) == text
    back = Tokenizer.load(tmp_path)
    assert back.merges == ours.merges
    assert back.vocab == ours.vocab
    assert back == ours
    assert Tokenizer.load(tmp_path / "tokenizer.json") == back


def test_tokenizer_json_in_transformers(by_pattern, samples, tmp_path):
    transformers = pytest.importorskip("transformers")
    for pattern in ["gpt2", "cl100k", "o200k"]:
        ours = by_pattern[pattern]
        ours.save(tmp_path / pattern)
        file = str(tmp_path / pattern / "tokenizer.json")
        for theirs in [
            transformers.PreTrainedTokenizerFast(tokenizer_file=file),
            transformers.AutoTokenizer.from_pretrained(str(tmp_path / pattern)),
        ]:
            for text in samples[::10] + samples[-6:]:
                assert theirs.encode(text) == ours.encode(text, allowed_special="all"), repr(text)
        assert theirs.eos_token_id == ours.eot_id


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_ranks_become_merges(tiktoken_encoding, data_folder, samples, tmp_path, name):
    """A vocabulary of tiktoken's, with its holes, written as tokenizer.json: the same ids there and here."""
    tokenizers = pytest.importorskip("tokenizers")
    ours = Tokenizer.from_tiktoken(name)
    ours.save(tmp_path)
    back = Tokenizer.load(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert back.special_tokens == ours.special_tokens
    assert back.vocab_size == ours.vocab_size
    assert back.rule == "merges, whole pieces first"
    texts = [(data_folder / "the-verdict.txt").read_text(), *[p.read_text() for p in data_folder.glob("udhr/*.txt")]]
    for text in [*samples[::4], *samples[-6:], *texts]:
        ids = ours.encode(text, allowed_special="all")
        assert back.encode(text, allowed_special="all") == ids, repr(text)
        assert theirs.encode(text).ids == ids, repr(text)


def gpt2_like(tokenizers, text):
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    return tok, trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("pattern", [None, LLAMA3, LLAMA3.replace(r"{1,3}", ""), r"\w+$|\s+|^\W|[^\w!]", "alone"])
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_tokenizer_json_of_tokenizers(stdlib_text, samples, tmp_path, pattern, ignore_merges):
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import pre_tokenizers

    theirs, trainer = gpt2_like(tokenizers, stdlib_text)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pattern == "alone":
        theirs.pre_tokenizer = byte_level
    elif pattern:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        theirs.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    theirs.train_from_iterator(stdlib_text[:50_000].splitlines(keepends=True), trainer)
    file = tmp_path / "tokenizer.json"
    theirs.save(str(file))
    if ignore_merges:
        content = json.loads(file.read_text())
        content["model"]["ignore_merges"] = True
        file.write_text(json.dumps(content))
        theirs = tokenizers.Tokenizer.from_file(str(file))
    ours = Tokenizer.load(file)
    assert ours.special_tokens == {"<|endoftext|>": 0, "<pad>": 1}
    assert ours.vocab_size == theirs.get_vocab_size()
    for text in samples:
        ids = theirs.encode(text).ids
        assert ours.encode(text, allowed_special="all") == ids, repr(text)
        assert ours.decode(ids) == text


def test_missing_and_broken_files_are_clear_errors(by_pattern, tmp_path):
    for path in [tmp_path / "nothing", tmp_path / "nothing.json", tmp_path]:
        with pytest.raises(TokenizerError, match=r"no tokenizer (at|in)"):
            Tokenizer.load(path)
    by_pattern["gpt2"].save(tmp_path / "cut")
    whole = (tmp_path / "cut" / "tokenizer.json").read_bytes()
    for data in [
        whole[: len(whole) // 2],
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'"x"',
        b'{"model": 3}',
        b'{"model": {"vocab": []}}',
    ]:
        (tmp_path / "cut" / "tokenizer.json").write_bytes(data)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path / "cut")
    ranks = tmp_path / "x.tiktoken"
    for data in [b"", b"IQ== 0\nnonsense", b"IQ== zero\n", b"IQ== 0\n", b"\x00\x01\x02"]:
        ranks.write_bytes(data)
        with pytest.raises(TokenizerError, match=r"x\.tiktoken"):
            Tokenizer.load(ranks)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tiktoken_files(by_pattern, samples, tmp_path, pattern):
    ours = by_pattern[pattern]
    ours.save(tmp_path / "a.tiktoken")
    back = Tokenizer.load(tmp_path / "a.tiktoken")
    assert back.rule == "ranks"
    assert (back.vocab, back.special_tokens) == (ours.vocab, ours.special_tokens)
    if pattern in ("gpt2", "cl100k", "o200k", None):
        assert back.pattern == ours.pattern
    for text in samples:  # with all that the pattern does not match
        assert back.encode_ordinary(text) == ours.encode_ordinary(text), repr(text)
    back.save(tmp_path / "b.tiktoken")
    assert Tokenizer.load(tmp_path / "b.tiktoken") == back
    ours.save(tmp_path / "folder", format="tiktoken")
    assert Tokenizer.load(tmp_path / "folder") == back


@pytest.mark.parametrize(
    "pattern", ["x*", r"\w+|\s*", "(a|b)?", "|a", r"\b", "^", r"(?=a)|x", r"(?<=q)x*", r"(?<=the)s?|\w+", "(?i)x{0,3}"]
)
def test_a_regex_that_can_match_nothing_is_not_for_tiktoken(pattern, tmp_path):
    """tiktoken panics at an empty match, or drops the character behind it. Here there is no piece then."""
    tok = Tokenizer.train(["xx the axb qx a\n"] * 3, 262, pattern=pattern)
    text = "xx qa thes\n"
    assert tok.decode(tok.encode(text)) == text
    with pytest.raises(TokenizerError, match="can match nothing, for instance in '"):
        tok.save(tmp_path / "x.tiktoken")
    assert list(tmp_path.iterdir()) == []
    if pattern != "x*":
        return
    tok.save(tmp_path)
    assert Tokenizer.load(tmp_path) == tok
    pytest.importorskip("tiktoken")
    with pytest.raises(TokenizerError, match="tiktoken panics"):
        tok.to_tiktoken()


@pytest.mark.parametrize(
    "pattern", [r"\p{L}+", r"^..|.$", r"(?<=a)b|x", r"\s+(?!\S)|\s+|\S+", r"(?>a*)b|c", r"(\w)\1|."]
)
def test_other_regexes_match_something(pattern):
    assert matches_nothing(pattern) is None


def test_a_tiktoken_file_alone(tmp_path, caplog):
    letters = [*range(256)]
    lines = [base64.b64encode(bytes([b])) + b" %d" % i for i, b in enumerate(letters)]
    lines += [base64.b64encode(b"bc") + b" 256", base64.b64encode(b"abc") + b" 257"]
    file = tmp_path / "mine.tiktoken"
    file.write_bytes(b"\n".join(lines))
    tok = Tokenizer.load(file)
    assert "pass pattern=" in caplog.text
    assert (tok.rule, tok.pattern, tok.vocab_size) == ("ranks", "cl100k", 258)
    assert tok.encode("zabc") == [122, 257]
    tok = Tokenizer.load(file, pattern=None, special_tokens=["<s>"])
    assert (tok.pattern, tok.special_tokens) == (None, {"<s>": 258})


def test_published_tiktoken_files_are_known(tiktoken_encoding, data_folder, tmp_path):
    found = 0
    for path in (data_folder / "tiktoken_cache").iterdir():
        data = path.read_bytes()
        if data[:6] == b"IQ== 0":
            (tmp_path / "x.tiktoken").write_bytes(data)
            tok = Tokenizer.load(tmp_path / "x.tiktoken")
            assert tok == Tokenizer.from_tiktoken({100277: "cl100k_base", 200019: "o200k_base"}[tok.vocab_size])
            found += 1
    assert found >= 2


def test_gpt2_files(by_pattern, stdlib_text, tmp_path):
    ours = by_pattern["gpt2"]
    ours.save(tmp_path, format="gpt2")
    for path in [tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"]:
        assert Tokenizer.load(path) == ours
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2TokenizerFast(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"), add_prefix_space=False
    )
    assert theirs.encode(stdlib_text[:5000]) == ours.encode(stdlib_text[:5000])
    other = by_pattern["o200k"]
    other.save(tmp_path / "o", format="gpt2")
    assert Tokenizer.load(tmp_path / "o", pattern="o200k") == other
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(TokenizerError, match="line 2"):
        Tokenizer.load(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"merges\.txt"):
        Tokenizer.load(tmp_path)


def test_the_files_that_gpt2_was_published_with(tiktoken_encoding, data_folder, stdlib_text, tmp_path):
    """A vocab.json of which one token is "model", like the key of a tokenizer.json."""
    sizes = {1_042_301: "vocab.json", 456_318: "merges.txt"}
    for path in (data_folder / "tiktoken_cache").iterdir():
        if path.stat().st_size in sizes:
            (tmp_path / sizes.pop(path.stat().st_size)).write_bytes(path.read_bytes())
    if sizes:
        pytest.skip("GPT-2's encoder.json and vocab.bpe are not in the cache")
    tok = Tokenizer.load(tmp_path)
    assert tok.special_tokens == {"<|endoftext|>": 50256}
    theirs = tiktoken_encoding("gpt2")
    assert tok.encode(stdlib_text[:200_000]) == theirs.encode_ordinary(stdlib_text[:200_000])
    tok.save(tmp_path / "again", format="gpt2")
    assert Tokenizer.load(tmp_path / "again") == tok
    assert (tmp_path / "again" / "merges.txt").read_text().split() == (tmp_path / "merges.txt").read_text().split()


def test_gpt2_files_with_added_tokens(by_pattern, tmp_path):
    """What transformers used to write: tokens that were added later are in a file of their own."""
    tok = by_pattern["gpt2"]
    tok.save(tmp_path, format="gpt2")
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 500, "<mask>": 501}')
    found = Tokenizer.load(tmp_path)
    assert found.special_tokens == tok.special_tokens | {"<pad>": 500, "<mask>": 501}
    assert found.encode("a<mask>", allowed_special="all") == [*tok.encode("a"), 501]
    (tmp_path / "added_tokens.json").write_text('{"<pad>": -1}')
    with pytest.raises(TokenizerError, match=r'added_tokens\.json\["<pad>"\] is -1'):
        Tokenizer.load(tmp_path)


def test_what_a_format_cannot_hold_is_said(by_pattern, tmp_path, caplog):
    by_pattern["o200k"].save(tmp_path / "a", format="gpt2")
    assert "pattern 'o200k'" in caplog.text
    templated = by_pattern["gpt2"].with_template(["<s>"])
    for format in ("gpt2", "tiktoken"):
        caplog.clear()
        templated.save(tmp_path / format, format=format)
        assert "template" in caplog.text
    caplog.clear()
    Tokenizer.load(tmp_path / "tiktoken").save(tmp_path / "b", format="gpt2")
    assert "rule 'ranks'" in caplog.text
    file = tmp_path / "c" / "tokenizer.json"
    by_pattern["gpt2"].save(file)
    with pytest.raises(TokenizerError, match="it holds its pattern"):
        Tokenizer.load(file, pattern="cl100k")


@pytest.mark.parametrize(
    ("tokens", "merges", "differs"),
    [
        ({256: b"ab", 257: b"abc"}, [(b"a", b"b"), (b"ab", b"c")], False),
        ({256: b"bc", 257: b"ab", 258: b"abc"}, [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")], True),
        ({256: b"abc", 257: b"ab"}, [(b"a", b"b"), (b"ab", b"c")], True),
        ({256: b"ab", 257: b"xyz"}, [(b"a", b"b")], True),
        # "aaa" is aa|a after the first merge, and a|aa never comes up.
        ({256: b"aa", 257: b"aaa"}, [(b"a", b"a"), (b"a", b"aa"), (b"aa", b"a")], False),
        ({256: b"aa", 257: b"aaa"}, [(b"a", b"a"), (b"a", b"aa")], True),
    ],
)
def test_ranks_that_may_say_something_else(tokens, merges, differs, tmp_path, caplog):
    tok = Tokenizer.from_vocab({i: bytes([i]) for i in range(256)} | tokens, merges, pattern=None)
    tok.save(tmp_path / "x.tiktoken")
    assert ("tiktoken's rule" in caplog.text) == differs
    ranks = Tokenizer.load(tmp_path / "x.tiktoken")
    texts = ["".join(letters) for n in range(1, 7) for letters in itertools.product("abc", repeat=n)] + ["xyz"]
    if not differs:
        assert all(ranks.encode(text) == tok.encode(text) for text in texts)
    elif tokens.get(256) != b"abc":  # out of order, but it happens to say the same
        assert any(ranks.encode(text) != tok.encode(text) for text in texts)


def test_training_leads_to_ranks_that_say_the_same(trained, tmp_path, caplog):
    for tok in trained.values():
        tok.save(tmp_path / "x.tiktoken")
        # So do the merges that are written for ranks.
        Tokenizer.load(tmp_path / "x.tiktoken").save(tmp_path / "x.json")
        Tokenizer.load(tmp_path / "x.json").save(tmp_path / "y.tiktoken")
    assert not caplog.text


def test_from_vocab(by_pattern):
    for pattern, tok in by_pattern.items():
        made = Tokenizer.from_vocab(tok.vocab, tok.merges, tok.special_tokens, pattern=pattern)
        assert made == tok
        ordinary = {token: id for id, token in tok.vocab.items() if id not in tok.special_tokens.values()}
        assert Tokenizer.from_vocab(ordinary, tok.merges, list(tok.special_tokens), pattern=pattern) == tok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, m: v.pop(65), "byte"),
        (lambda v, m: m.append((b"q", b"zz")), "not in the vocabulary"),
        (lambda v, m: m.append((b"q", b"q")), "not in the vocabulary"),
        (lambda v, m: v.update({300: b"a"}), "two tokens have the bytes"),
        (lambda v, m: v.update({300: "text"}), "maps ids .* to bytes"),
        (lambda v, m: v.update({300: b""}), "empty"),
        (lambda v, m: v.update({1 << 40: b"xyz"}), "maps ids .* to bytes"),
        (lambda v, m: v.update({-1: b"xyz"}), "maps ids .* to bytes"),
    ],
)
def test_bad_vocabularies_are_clear_errors(change, words):
    vocab, merges = {i: bytes([i]) for i in range(256)}, []
    change(vocab, merges)
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.from_vocab(vocab, merges)


@pytest.mark.parametrize(
    ("special", "words"),
    [
        ({"a": -1}, r"special_tokens\['a'\] is -1: expected a token id"),
        ({"a": 1 << 40}, r"special_tokens\['a'\] is 1099511627776: expected a token id"),
        ({"a": "5"}, r"special_tokens\['a'\] is '5': expected a token id"),
        ({5: 1}, "a special token is a str that is not empty, not 5"),
        ({"": 300}, "a special token is a str that is not empty"),
        (["a", 5], "a special token is a str that is not empty, not 5"),
        (["<a>", "<a>"], "given twice"),
        (["\ud800"], "half of a surrogate pair"),
        ("x", r"a sequence of strings; write \('x',\)"),
        (5, "a sequence of strings, not 5"),
    ],
)
def test_bad_special_tokens_are_clear_errors(special, words, tmp_path):
    vocab = {i: bytes([i]) for i in range(256)}
    tok = Tokenizer.from_vocab(vocab, [])
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.from_vocab(vocab, [], special)
    tok.save(tmp_path / "x.tiktoken")
    tok.save(tmp_path, format="gpt2")
    for path in (tmp_path / "x.tiktoken", tmp_path / "vocab.json"):
        with pytest.raises(TokenizerError, match=rf"{path.name}: .*{words}"):
            Tokenizer.load(path, special_tokens=special)


def test_unknown_encodings_and_formats(by_pattern, tmp_path):
    pytest.importorskip("tiktoken")
    with pytest.raises(TokenizerError, match="no encoding"):
        Tokenizer.from_tiktoken("cl100k_bass")
    with pytest.raises(TokenizerError, match="format"):
        by_pattern["gpt2"].save(tmp_path, format="yaml")
    colliding = Tokenizer.train(["x"], 257, special_tokens=["a"])
    with pytest.raises(TokenizerError, match="spelled like"):
        colliding.save(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises((TokenizerError, OSError)):
        by_pattern["gpt2"].save(tmp_path / "file" / "below")


def test_two_merges_with_the_same_bytes(samples):
    """A list that training would not make, but a file may hold: both pairs become the one token."""
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"aa", 257: b"aaa"}
    merges = [(b"a", b"a"), (b"a", b"aa"), (b"aa", b"a")]
    ours = Tokenizer.from_vocab(vocab, merges, pattern=None)
    from hornbook.tokenizer.huggingface import to_json

    theirs = tokenizers.Tokenizer.from_str(json.dumps(to_json(ours)))
    for n in range(1, 300):
        text = "a" * n + "b" + "a" * (n % 7)
        assert ours.encode(text) == theirs.encode(text).ids
