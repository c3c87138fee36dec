"""Writing: what is drawn, when it stops, and what a reader of the stream sees."""

from __future__ import annotations

import math
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook.cache import KVCache
from hornbook.errors import ConfigError
from hornbook.sample import Sampling, beam_search, generate_many, penalize, probabilities, sample_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


@pytest.fixture(scope="module")
def tok() -> hb.Tokenizer:
    """One token a byte, and the end-of-text token: every character above U+007F is split across tokens."""
    return hb.Tokenizer.train(["-"], vocab_size=257)


def tiny(position: str = "rope", context: int = 16, vocab: int = 257, seed: int = 0, std: float = 0.3) -> hb.GPT:
    torch.manual_seed(seed)
    config = hb.GPTConfig(
        vocab_size=vocab, context_length=context, n_layer=2, n_head=2, d_model=16, init_std=std, position=position,  # type: ignore[arg-type]
    )  # fmt: skip
    return hb.GPT(config)


class Parrot(hb.GPT):
    """A model that is certain of the next token: after n tokens of a script comes the next one of it."""

    def __init__(self, script: list[int], vocab: int = 257) -> None:
        super().__init__(hb.GPTConfig(vocab_size=vocab, context_length=512, n_layer=1, n_head=1, d_model=2))
        self.script = script

    def forward(self, ids: Tensor, targets: Any = None, *, cache: KVCache | None = None, reduction: str = "") -> Tensor:
        assert cache is not None
        cache.advance(ids.shape[1])
        logits = torch.full((*ids.shape, self.config.vocab_size), -100.0)
        logits[:, -1, self.script[min(cache.length, len(self.script)) - 1]] = 100.0
        return logits


def parrot(tok: hb.Tokenizer, text: str, end: bool = True) -> Parrot:
    assert tok.eot_id is not None
    return Parrot(tok.encode_ordinary(text) + [tok.eot_id] * end)


# What is drawn


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("penalty", [1.0, 1.7, 0.6])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 50, 99])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.35, 0.01])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.5])
def test_filters_are_those_of_transformers(
    penalty: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    t = pytest.importorskip("transformers")
    logits, ids = 3 * randn(4, 50, seed=top_k), torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(1))
    processors: list[Any] = [t.TemperatureLogitsWarper(temperature)]
    if penalty != 1:
        processors.insert(0, t.RepetitionPenaltyLogitsProcessor(penalty))
    processors += [t.TopKLogitsWarper(top_k)] if top_k else []
    processors += [t.TopPLogitsWarper(top_p)] if top_p < 1 else []
    processors += [t.MinPLogitsWarper(min_p)] if min_p else []
    want = t.LogitsProcessorList(processors)(ids, logits.clone()).softmax(-1)
    before = logits.clone()
    got = probabilities(logits, ids, Sampling(temperature, top_k, top_p, min_p, penalty))
    assert torch.equal((got > 0), (want > 0))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert torch.equal(logits, before)


def test_a_penalty_counts_once() -> None:
    scores = torch.tensor([[2.0, -2.0, 1.0]])
    once, often = (penalize(scores, torch.tensor([row]), 2.0) for row in ([0, 1], [0, 1, 0, 0, 1]))
    assert once.tolist() == often.tolist() == [[1.0, -4.0, 1.0]]


def test_ties() -> None:
    logits, ids = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]), torch.zeros(1, 1, dtype=torch.int64)
    kept = probabilities(logits, ids, Sampling(top_k=2))[0]
    assert (kept > 0).tolist() == [False, True, True, True, True, False]  # none of the equals is favoured
    assert probabilities(torch.zeros(1, 5), ids, Sampling(temperature=0)).tolist() == [[1.0, 0, 0, 0, 0]]
    assert probabilities(torch.zeros(1, 4), ids, Sampling(top_p=0.5)).tolist() == [[0.25] * 4]
    assert probabilities(torch.zeros(1, 4), ids, Sampling(min_p=1.0)).tolist() == [[0.25] * 4]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6, 1e30])
def test_extreme_temperatures(temperature: float) -> None:
    p = probabilities(randn(2, 30, seed=0) * 10, torch.zeros(2, 1, dtype=torch.int64), Sampling(temperature))
    assert p.isfinite().all()
    torch.testing.assert_close(p.sum(-1), torch.ones(2))
    if temperature < 1:
        assert (p.amax(-1) > 0.999).all()


@pytest.mark.parametrize("how", [Sampling(), Sampling(0.7, top_k=5), Sampling(1.3, top_p=0.8), Sampling(min_p=0.2)])
def test_draws_follow_the_probabilities(how: Sampling) -> None:
    """Pearson's χ² of 4000 draws; the bound is the mean of its distribution and four standard deviations."""
    model, n = tiny(vocab=12, std=0.5), 4000
    ids = torch.tensor([[1, 5, 2]]).repeat(n, 1)
    drawn = torch.bincount(next(sample_ids(model, ids, how, max_new_tokens=1, seed=3)), minlength=12)
    with torch.no_grad():
        p = probabilities(model.eval()(ids[:1])[:, -1], ids[:1], how)[0]
    assert (drawn[p == 0] == 0).all()
    common = p * n >= 5
    assert int(common.sum()) >= 3
    expected, freedom = p[common] * n, int(common.sum()) - 1
    chi2 = float(((drawn[common] - expected) ** 2 / expected).sum())
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)
    assert chi2 > 0.01  # chance, not a count


def test_a_seed_decides(tok: hb.Tokenizer) -> None:
    model = tiny(context=64)
    texts = [hb.generate(model, tok, "a", max_new_tokens=20, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    torch.manual_seed(7)
    first = hb.generate(model, tok, "a", max_new_tokens=20)
    state = torch.get_rng_state()
    hb.generate(model, tok, "a", max_new_tokens=20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # with a seed of its own it leaves PyTorch's alone
    torch.manual_seed(7)
    assert hb.generate(model, tok, "a", max_new_tokens=20) == first


def test_temperature_0_takes_the_likeliest(tok: hb.Tokenizer) -> None:
    model = tiny(context=64, std=0.5).eval()
    ids = torch.tensor([[tok.eot_id, *tok.encode_ordinary("ab")]])
    for token in sample_ids(model, ids, Sampling(temperature=0), max_new_tokens=12):
        with torch.no_grad():
            assert int(token) == int(model(ids)[0, -1].argmax())
        ids = torch.cat((ids, token[:, None]), dim=1)
    texts = {hb.generate(model, tok, "ab", max_new_tokens=12, temperature=0, seed=s) for s in (None, 1, 2)}
    assert len(texts) == 1
    assert hb.generate(model, tok, "ab", max_new_tokens=12, top_k=1) in texts


# How long


def test_nothing(tok: hb.Tokenizer) -> None:
    model = tiny()
    assert hb.generate(model, tok, "a", max_new_tokens=0) == ""
    assert hb.generate(model, tok, "a", max_new_tokens=0, num_beams=3) == ""
    assert list(hb.stream(model, tok, "a", max_new_tokens=0)) == []
    assert generate_many(model, tok, "a", 2, Sampling(), max_new_tokens=0) == ["", ""]


@pytest.mark.parametrize("position", ["learned", "rope", "none"])
@pytest.mark.parametrize("context", [1, 2, 7, 16])
@pytest.mark.parametrize("prompt", [1, 6, 7, 8, 40])
def test_beyond_the_context(position: str, context: int, prompt: int) -> None:
    """When the context is full, its older half is forgotten: each token is drawn from a window that says so."""
    model = tiny(position, context, std=0.5).eval()
    ids = torch.randint(257, (2, prompt), generator=torch.Generator().manual_seed(0))
    window = ids[:, -context:]
    n = 0
    for token in sample_ids(model, ids, Sampling(temperature=0), max_new_tokens=3 * context + 2):
        if window.shape[1] > context:
            window = window[:, -max(1, context // 2) :]
        with torch.no_grad():
            assert torch.equal(token, model(window)[:, -1].argmax(-1))
        window = torch.cat((window, token[:, None]), dim=1)
        n += 1
    assert n == 3 * context + 2


def test_the_end_of_text_ends(tok: hb.Tokenizer) -> None:
    assert hb.generate(parrot(tok, "Once."), tok, temperature=0) == "Once."
    assert hb.generate(parrot(tok, "Once."), tok, max_new_tokens=3) == "Onc"
    assert hb.generate(parrot(tok, "Once.", end=False), tok, max_new_tokens=7) == "Once..."
    assert hb.generate(parrot(tok, ""), tok) == ""
    assert hb.generate(parrot(tok, "Once."), tok, num_beams=3) == "Once."


# What a reader sees

WORDS = "the  fox\nsaid: ä, 漢 and 🙂🙂 END or EEND."


@pytest.mark.parametrize(
    ("stop", "want"),
    [
        ((), WORDS),
        ("END", "the  fox\nsaid: ä, 漢 and 🙂🙂 "),
        (("END",), "the  fox\nsaid: ä, 漢 and 🙂🙂 "),
        ("ENDX", WORDS),
        ("EEND", "the  fox\nsaid: ä, 漢 and 🙂🙂 END or "),
        ("\n", "the  fox"),
        (["zzz", "said", "fox"], "the  "),
        ("🙂🙂", "the  fox\nsaid: ä, 漢 and "),
        ("漢", "the  fox\nsaid: ä, "),
        ("t", ""),
        ("D.", WORDS[:-2]),
        (".X", WORDS),
    ],
)
def test_stop(tok: hb.Tokenizer, stop: Any, want: str) -> None:
    model = parrot(tok, WORDS)
    pieces = list(hb.stream(model, tok, stop=stop))
    assert "".join(pieces) == want
    assert all(pieces)
    assert hb.generate(model, tok, stop=stop) == want
    assert hb.generate(model, tok, stop=stop, num_beams=2) == want


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.text("abä", max_size=12), stop=st.lists(st.text("abä", min_size=1, max_size=4), max_size=3))
def test_no_part_of_a_stop_string_is_ever_shown(tok: hb.Tokenizer, text: str, stop: list[str]) -> None:
    model = parrot(tok, text)
    shown = ""
    for piece in hb.stream(model, tok, stop=stop):
        shown += piece
    # The stop string that is complete first counts, and of those complete at once the one that began first.
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(s) for s in stop)]
    want = min(text[: ends[0]].find(s) for s in stop if text[: ends[0]].endswith(s)) if ends else len(text)
    assert shown == text[:want]
    assert hb.generate(model, tok, stop=stop) == shown


def test_stream_is_generate(tok: hb.Tokenizer) -> None:
    for seed in range(6):
        model = tiny(context=32, seed=seed)
        options: dict[str, Any] = {
            "max_new_tokens": 60,
            "temperature": 1.2,
            "top_k": 40,
            "seed": seed,
            "stop": ["e", "q"],
        }
        pieces = list(hb.stream(model, tok, "x", **options))
        assert "".join(pieces) == hb.generate(model, tok, "x", **options)
        assert all(pieces)


def test_characters_come_whole(tok: hb.Tokenizer) -> None:
    assert list(hb.stream(parrot(tok, "a漢🙂"), tok)) == ["a", "漢", "🙂"]
    broken = Parrot([*tok.encode_ordinary("漢")[:2], tok.encode_ordinary("b")[0], *tok.encode_ordinary("漢")[:1]])
    assert "".join(hb.stream(broken, tok, max_new_tokens=4)) == "�b�" == hb.generate(broken, tok, max_new_tokens=4)


def test_a_stream_writes_as_it_goes_and_can_be_left(tok: hb.Tokenizer) -> None:
    model = tiny(context=64).train()
    stream = hb.stream(model, tok, "a", seed=1, max_new_tokens=10**9)
    assert [next(stream) for _ in range(3)]
    assert torch.is_grad_enabled()
    assert model.training, "between two pieces the model is its owner's"


# Several at once, beams, and calls that make no sense


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_rows_do_not_see_each_other(position: str) -> None:
    model = tiny(position, context=16, std=0.5)
    ids = torch.randint(257, (5, 6), generator=torch.Generator().manual_seed(0))

    def greedy(rows: Tensor) -> Tensor:
        return torch.stack(list(sample_ids(model, rows, Sampling(temperature=0), max_new_tokens=24)), dim=1)

    together = greedy(ids)
    assert len({tuple(row) for row in together.tolist()}) > 1
    for n in range(5):
        assert torch.equal(greedy(ids[n : n + 1]), together[n : n + 1])
    assert torch.equal(greedy(ids.flip(0)), together.flip(0))


def test_generate_many(tok: hb.Tokenizer) -> None:
    model = tiny(context=32, std=0.4)
    alone = hb.generate(model, tok, "go", max_new_tokens=20, temperature=0)
    assert generate_many(model, tok, "go", 3, Sampling(temperature=0), max_new_tokens=20) == [alone] * 3
    drawn = [generate_many(model, tok, "go", 4, Sampling(), max_new_tokens=20, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1
    assert generate_many(parrot(tok, "Once."), tok, "", 2, Sampling(), max_new_tokens=50) == ["Once."] * 2


def test_beams_find_what_greed_misses() -> None:
    """One beam is greedy; many beams score at least as high, by the model's own mean log-probability."""
    higher = 0
    for seed in range(8):
        model = tiny(vocab=9, context=12, seed=seed, std=0.6).eval()

        def score(new: list[int], model: hb.GPT = model) -> float:
            with torch.no_grad():
                log_p = model(torch.tensor([[1, 2, *new[:-1]]]))[0, 1:].log_softmax(-1)
            return float(log_p.gather(-1, torch.tensor(new)[:, None]).mean())

        found = [beam_search(model, [1, 2], num_beams=n, max_new_tokens=6, eot_id=None) for n in (1, 200)]
        greedy = sample_ids(model, torch.tensor([[1, 2]]), Sampling(temperature=0), max_new_tokens=6)
        assert found[0] == [int(t) for t in greedy]
        assert score(found[1]) >= score(found[0]) - 1e-6
        higher += score(found[1]) > score(found[0]) + 1e-6
    assert higher > 0


def test_beams_do_not_slide(tok: hb.Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"2 \+ 20 tokens do not fit into the context of 16, and beams do not slide"):
        hb.generate(tiny(), tok, "a", num_beams=2, max_new_tokens=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be a number of at least 0, not -1"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"temperature": math.inf}, "temperature must be"),
        ({"top_k": -1}, r"top_k must be at least 0 \(which means all\), not -1"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.1}, "top_p must be"),
        ({"top_p": math.nan}, "top_p must be"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1, not -0.1"),
        ({"min_p": 2}, "min_p must be"),
        ({"repetition_penalty": 0}, r"repetition_penalty must be above 0 \(1 means none\), not 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, not -1"),
        ({"stop": ["a", ""]}, "a stop string must not be empty"),
    ],
)
def test_options_that_make_no_sense(tok: hb.Tokenizer, options: dict[str, Any], message: str) -> None:
    model = tiny()
    for call in (hb.generate, hb.stream):  # before the first token is asked for
        with pytest.raises(ConfigError, match=message):
            call(model, tok, "a", **options)
    with pytest.raises(ConfigError, match=message):
        hb.generate(model, tok, "a", num_beams=2, **options)


def test_counts_that_make_no_sense(tok: hb.Tokenizer) -> None:
    with pytest.raises(ConfigError, match="num_beams must be at least 1, not 0"):
        hb.generate(tiny(), tok, "a", num_beams=0)
    with pytest.raises(ConfigError, match="count must be at least 1, not 0"):
        generate_many(tiny(), tok, "a", 0, Sampling())
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 0"):
        generate_many(tiny(), tok, "a", 1, Sampling(), max_new_tokens=-2)


def test_a_tokenizer_of_another_model(tok: hb.Tokenizer) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has 257 tokens and the model 200"):
        hb.generate(tiny(vocab=200), tok, "a")
    with pytest.raises(ConfigError, match="the model wrote token 300, beyond the tokenizer's 257"):
        hb.generate(Parrot([300], vocab=400), tok, "")


def test_an_empty_prompt_begins_a_document(tok: hb.Tokenizer) -> None:
    model = tiny(context=32)
    ids = torch.tensor([[tok.eot_id]])
    want = [int(t) for t in sample_ids(model, ids, Sampling(), max_new_tokens=5, seed=2)]
    assert hb.generate(model, tok, "", max_new_tokens=5, seed=2) == tok.decode([i for i in want if i != tok.eot_id])
    plain = hb.Tokenizer.train(["-"], vocab_size=256, special_tokens=())
    with pytest.raises(ConfigError, match="an empty prompt needs a tokenizer with an end-of-text token"):
        hb.generate(model, plain, "")
    assert isinstance(hb.generate(model, plain, "a", max_new_tokens=3, top_k=1), str)


@pytest.mark.parametrize("mode", [True, False])
def test_writing_leaves_the_model_as_it_was(tok: hb.Tokenizer, mode: bool) -> None:
    model = tiny(context=32).train(mode)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hb.generate(model, tok, "a", max_new_tokens=4)
    found = hb.generate(model, tok, "a", max_new_tokens=4, num_beams=2)
    assert "".join(hb.stream(model, tok, "a", max_new_tokens=4, num_beams=2)) == found
    hb.generate(model, tok, "a", max_new_tokens=40, stop="ab")
    assert model.training == mode
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
