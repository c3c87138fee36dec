"""The fables: the same on every machine, correct English, distinct, honest about their bits, held out."""

from __future__ import annotations

import doctest
import hashlib
import itertools
import math
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter

import pytest
from hornbook.corpora import fables
from hornbook.corpora.fables import cast, draw, facts, judge, naming, plot
from hornbook.errors import DataError

GOLDEN = {  # SHA-256 of the first megabyte of seed 0; it changes only with the text, and then on purpose
    "train": "eebdfd6070b894322124ece33d92a19a4bfe3a3b15a848b2e912d0795246cd80",
    "heldout": "f83e7243a055af9c5ac2a258af8517b8f718724a4c5db1f45d3443fb6da82b69",
}


def _sha256(stories) -> str:
    return hashlib.sha256("\n\n".join(s.text for s in stories).encode("ascii")).hexdigest()


@pytest.fixture(scope="module")
def corpus():
    """Five megabytes, and the seconds that they took."""
    start = time.perf_counter()
    made = fables.generate(5_000_000)
    return made, time.perf_counter() - start


@pytest.fixture(scope="module")
def sample():
    """A thousand stories of each split."""
    return [fables.story(i, split=split) for split in ("train", "heldout") for i in range(1000)]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_first_megabyte_is_the_golden_one(split):
    assert _sha256(fables.generate(1_000_000, split=split)) == GOLDEN[split]


def test_no_process_differs():
    script = (
        "import hashlib; from hornbook.corpora import fables;"
        "texts = [fables.story(i, seed=7, split=s).text for s in ('train', 'heldout') for i in range(100)];"
        "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_random_access_seeds_and_sizes():
    first = list(itertools.islice(fables.stories(seed=3, start=5), 4))
    assert first == [fables.story(i, seed=3) for i in range(5, 9)]
    assert fables.story(0, seed=0).text != fables.story(0, seed=1).text != fables.story(0, seed=-1).text
    made = fables.generate(20_000)
    used = sum(len(s.text.encode()) + 1 for s in made)
    assert used <= 20_000 < used + len(fables.story(len(made)).text) + 1
    assert fables.generate(10) == []


def test_wrong_arguments_are_named():
    with pytest.raises(DataError, match="starts at 0, got -1"):
        fables.story(-1)
    with pytest.raises(DataError, match="did you mean 'train'"):
        fables.story(0, split="trian")  # type: ignore[arg-type]


def test_five_megabytes_take_seconds(corpus):
    _, seconds = corpus
    assert seconds < 6


def test_the_world_is_large_and_its_words_do_not_overlap():
    sizes = {fact: len(values) for fact, values in fables.WORLD.items()}
    least = {"kind": 40, "home": 20, "place": 25, "want": 60, "obstacle": 30, "trait": 18, "noun": 30}
    assert {fact: sizes[fact] for fact, n in least.items() if sizes[fact] < n} == {}
    for fact, values in fables.WORLD.items():
        assert len(set(values)) == len(values), fact
    assert len(fables.names()) >= 40
    alone = [w for f in ("kind", "home", "adjective", "noun", "helper") for w in fables.WORLD[f]]
    assert len(set(alone)) == len(alone)
    assert all(len(trait.turns) == 2 for trait in draw.TRAITS.values())


def test_at_least_a_thousand_words_are_frequent(corpus):
    stories, _ = corpus
    words = Counter(word for s in stories for word in re.findall(r"[A-Za-z']+", s.text))
    spoken = Counter()
    for word, n in words.items():
        if word.removesuffix("'s") not in naming.ALL:
            spoken[word.lower()] += n
    assert sum(n >= 20 for n in spoken.values()) >= 1000


def test_facts_differ():
    for split in ("train", "heldout"):
        keys = {draw.facts_at(i, 0, split)[0].key() for i in range(20_000)}
        assert len(keys) == 20_000
        # by construction: even without the name, the outcome and the helper
        cores = {
            (f.kind, f.home, f.object, f.want, f.obstacle, f.trait)
            for f in (draw.facts_at(i, 1, split)[0] for i in range(5_000))
        }
        assert len(cores) == 5_000


def test_the_permutation_is_one():
    assert len({draw._permute(i, 99) for i in range(50_000)}) == 50_000
    assert draw._permute(5, 1) != draw._permute(5 + draw.SPACE, 1)  # beyond the space another one begins


def test_every_fact_is_said_often_enough(sample):
    for s in sample:
        mentions = judge.read(s.text).mentions
        assert mentions["hero"] >= 4, s.text
        assert min(mentions[fact] for fact in ("kind", "home", "object")) >= 3, s.text
        for fact in (s.facts.want, s.facts.place, s.facts.trait, s.facts.helper, s.facts.moral):
            assert fact in s.text


def test_training_shows_nothing_that_is_held_out(corpus):
    train = [s.facts for s in corpus[0]]
    held = [fables.story(i, split="heldout").facts for i in range(3000)]
    assert not any(map(fables.is_heldout, train))
    assert all(map(fables.is_heldout, held))
    assert not {f.hero for f in train} & naming.HELD_OUT
    seen = fables.training_pairs(corpus[0])
    by_pairs = [f for f in held if f.hero not in naming.HELD_OUT]
    assert all(judge.unseen(f, seen) for f in by_pairs)
    assert len(by_pairs) > len(held) / 2  # most are held out by what happens in them
    assert {f.hero for f in held} & naming.HELD_OUT & set(fables.names())
    assert not judge.unseen(train[0], seen)


def test_held_out_names_are_a_tenth_of_the_same_style():
    invented = [n for n in naming.HELD_OUT if n not in naming.GIVEN]
    assert 0.07 < len(invented) / len(naming.SHORT + naming.LONG) < 0.13
    assert 3 <= len(naming.HELD_OUT) - len(invented) <= 10
    trained = [n for n in naming.SHORT + naming.LONG if n not in naming.HELD_OUT]
    assert {n[:2] for n in invented} <= {n[:2] for n in trained}
    assert {n[-2:] for n in invented} <= {n[-2:] for n in trained}


def _entropy(values) -> float:
    """Bits per value, by counting."""
    counts = Counter(values)
    n = counts.total()
    return -sum(c / n * math.log2(c / n) for c in counts.values())


def test_bits_of_the_facts_are_what_counting_says():
    drawn = [draw.facts_at(i, 0, "train") for i in range(20_000)]
    told = [f for f, _, _ in drawn]
    # In training these groups are independent of one another, so their entropies add up.
    counted = (
        _entropy((f.kind, f.home) for f in told)
        + _entropy((f.noun, f.obstacle) for f in told)
        + _entropy((f.trait, f.want) for f in told)
        + _entropy(f.adjective for f in told)
        + _entropy((f.trait, f.outcome) for f in told)
        - _entropy(f.trait for f in told)
        + _entropy((f.outcome, f.helper) for f in told)
        - _entropy(f.outcome for f in told)
    )
    styles = ["given" if f.hero in naming.GIVEN else "short" if len(f.hero) == 4 else "long" for f in told]
    pools = {"given": naming.GIVEN_NAMES, "short": naming.SHORT, "long": naming.LONG}
    left = {style: sum(n not in naming.HELD_OUT for n in pool) for style, pool in pools.items()}
    counted += _entropy(styles) + sum(math.log2(left[style]) + (style != "given") for style in styles) / len(styles)
    assert statistics.fmean(bits for _, bits, _ in drawn) == pytest.approx(counted, abs=0.2)


def test_the_share_of_training_is_what_drawing_says():
    rng = random.Random(1)
    held = 0
    for _ in range(20_000):
        hero, _, _ = draw._name(rng.random)
        picked = [rng.choice(fables.WORLD[f]) for f in ("kind", "home", "noun", "obstacle", "trait", "want")]
        held += draw._is_heldout(hero, *picked)
    assert held / 20_000 == pytest.approx(1 - draw.TRAIN_SHARE, abs=0.015)


def test_bits_of_the_sentences_are_what_counting_says(corpus):
    stories, _ = corpus
    for frames in (plot.OPENING, plot.MORNING, plot.MORAL, plot.SHOWN, plot.TREASURE):
        # the longest piece between two braces gives each frame away, unless another one holds it as well
        marks = [max(re.split(r"\{\w+\}", frame), key=len) for frame in frames]
        marks = [m for m in marks if len(m) > 4 and sum(m in other for other in frames) == 1]
        for mark in marks:
            share = sum(mark in s.text or mark.lower() in s.text for s in stories) / len(stories)
            if mark in plot.MORNING or len(mark) > 8:
                assert share >= 0.8 / len(frames), mark
    counted = [s.bits - draw.facts_at(i, 0, "train")[1] for i, s in enumerate(stories[:200])]
    for s, bits in zip(stories[:200], counted, strict=True):
        slots = [plot.OPENING, plot.SHOWN, plot.TREASURE, plot.MORNING, plot.DEPARTURE, plot.OBSTACLE, plot.MORAL]
        slots += [plot.ROAD[s.facts.outcome], plot.RETURN[s.facts.keeps_object]]
        slots += {"gift": [plot.MEETING, plot.THANKS], "helper": [plot.HELP]}.get(s.facts.outcome, [plot.ALONE])
        assert bits == pytest.approx(sum(math.log2(len(slot)) for slot in slots))


def test_bits_are_few(corpus):
    stories, _ = corpus
    assert all(math.isfinite(s.bits) and s.bits > 0 for s in stories)
    for some in (stories, fables.generate(200_000, split="heldout")):
        floor = sum(s.bits for s in some) / sum(len(s.text) + 1 for s in some)
        print(f"floor: {floor:.4f} bits per byte")
        assert 0.05 < floor < 0.17


def _faults(text: str, hero: str = "Mira") -> list[str]:
    """What is wrong with the English of ``text``, as far as a program can tell."""
    faults = {
        "a before a vowel": r"\b[Aa] [aeiou]",
        "an before a consonant": r"\b[Aa]n (?!honest)[^aeiou]",
        "a doubled word": r"(?i)\b(\w+) \1\b",
        "a brace": r"[{}]",
        "a double space": r"  | \n|\n |\n\n",
        "not ASCII": r"[^\x20-\x7e\n]",
        "a blank before a stop": r" [,.!?;:]",
        "a stop without a blank": r"[,.!?;:][A-Za-z]",
        "two stops": r"[,.!?;:][,.!?;:]",
        "a small letter after a stop": r"[.!?] [a-z]|\.\" [a-z]|\n[a-z]",
        "a capital after a spoken comma": rf",\" (?!{hero}\b)[A-Z]",
    }
    found = [fault for fault, pattern in faults.items() if re.search(pattern, text)]
    for paragraph in text.split("\n"):
        if paragraph.count('"') % 2:
            found.append("an open quote")
        for n, quote in enumerate(re.finditer('"', paragraph)):
            before, after = paragraph[: quote.start()][-1:], paragraph[quote.end() :][:1]
            right = (before in ("", " ") and after.isupper()) or before == " "
            if n % 2 == 0 and not (right and after.isalpha()):
                found.append("a bad opening quote")
            if n % 2 == 1 and not (before in ",.!?" and after in ("", " ")):
                found.append("a bad closing quote")
        if not re.search(r'[.!?]"?$', paragraph) or not re.match('[A-Z"]', paragraph):
            found.append("a paragraph without an end or a beginning")
    return found


def test_the_english_is_right(sample):
    for s in sample:
        faults = [f for f in _faults(s.text) if not (f.startswith("a capital") and f", {s.facts.hero}")]
        assert not faults, s.text
        assert s.text.count("\n") == 2
        reading = judge.read(s.text)
        assert reading.keeps_pronoun
        assert reading.pronoun == s.facts.pronoun


def test_the_fault_finder_finds_faults():
    for text in (
        "A owl came.",
        'He said, "No.',
        "The the fox.",
        "One. two.",
        "One  two.",
        "An fox came.",
        '"No," The fox said.',
    ):
        assert _faults(text), text


def test_articles():
    assert cast.a("orange kettle") == "an orange kettle"
    assert cast.a("honest") == "an honest"
    assert cast.a("fox") == "a fox"


def test_outcomes_all_happen_and_fit(corpus):
    stories, _ = corpus
    share = Counter(s.facts.outcome for s in stories)
    assert set(share) == set(fables.WORLD["outcome"])
    assert min(share.values()) > len(stories) / 8
    for s in stories[:2000]:
        f = s.facts
        assert bool(f.tool) == (f.outcome == "tool")
        assert bool(f.helper) == (f.outcome in ("helper", "gift"))
        assert s.text.endswith(f"hat {f.moral}.")
        assert f"{'her' if f.pronoun == 'she' else 'his'} {f.object}" in s.text
    assert sum('"' in s.text for s in stories) > 0.75 * len(stories)  # most of them talk


def test_stories_fit_the_context():
    tokenizers = pytest.importorskip("tokenizers")
    pattern = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    before = tokenizers.pre_tokenizers
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = before.Sequence(
        [
            before.Split(tokenizers.Regex(pattern), "isolated"),
            before.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    texts = [s.text for s in fables.generate(1_500_000)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=before.ByteLevel.alphabet(), show_progress=False
    )
    tok.train_from_iterator(texts, trainer)
    held = [fables.story(i, split="heldout").text for i in range(500)]
    lengths = [len(e.ids) for e in tok.encode_batch(texts[:1500] + held)]
    assert 110 <= statistics.median(lengths) <= 220
    assert sum(110 <= n <= 220 for n in lengths) >= 0.8 * len(lengths)
    assert max(lengths) < 270


@pytest.mark.parametrize("module", [fables, cast, facts, judge])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0
