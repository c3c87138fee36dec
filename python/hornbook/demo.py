"""The whole main job on one page: text → tokenizer → model → training → writing.

Everything here is done with the functions that a user calls; read it as an example.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import files
from .corpora import DOCUMENT_END, fables
from .data import TokenData
from .errors import ConfigError
from .model import GPT, GPTConfig
from .ngram import Trigram
from .runlog import clock
from .sample import Sampling, generate_many, stream
from .tokenizer import Tokenizer
from .train import TrainConfig, Trainer, seconds_per_step

VOCAB_SIZE = 2048
CORPUS_BYTES, HELDOUT_BYTES = 5_000_000, 250_000
JUDGED, TEMPERATURE = 200, 0.7

# What two laptop cores learn most from in two minutes; benchmarks/NOTES.md says what else was tried.
RECIPE = TrainConfig(
    batch_size=4,
    optimizer="muon",
    learning_rate=0.01,
    muon_learning_rate=0.02,
    eval_every=0,
    eval_tokens=20_000,
    checkpoint_every=0,
    keep=1,
)
COPY_SHARE, COPY_MOST = 0.25, 300  # of the steps, the first quarter, but no more than this many
EVALUATIONS = 8


@dataclass
class Marks:
    """What to hold a model's held-out bits per byte against."""

    trigram: float
    generator: float


@dataclass
class World:
    """A corpus of fables, encoded, with its marks."""

    tokenizer: Tokenizer
    data: TokenData
    marks: Marks
    stories: list[fables.Story]


def make_world(seed: int = 0) -> World:
    """Write the corpus, train the tokenizer on it, encode both splits and measure the marks."""
    stories = fables.generate(CORPUS_BYTES, seed=seed)
    heldout = fables.generate(HELDOUT_BYTES, seed=seed, split="heldout")
    texts = [story.text for story in stories]
    tokenizer = Tokenizer.train(texts, vocab_size=VOCAB_SIZE)
    data = TokenData.from_text(texts, tokenizer, heldout=[story.text for story in heldout])
    marks = Marks(
        trigram=Trigram(data.train, tokenizer.vocab_size).bits_per_byte(data.heldout),
        generator=sum(story.bits for story in heldout) / data.heldout.bytes,
    )
    return World(tokenizer, data, marks, stories)


def recipe(steps: int, seed: int) -> TrainConfig:
    """The demo's settings for a run of ``steps`` steps."""
    return dataclasses.replace(
        RECIPE,
        steps=steps,
        seed=seed,
        copy_steps=min(COPY_MOST, round(COPY_SHARE * steps)),
        eval_every=max(1, steps // EVALUATIONS),
    )


def new_model(seed: int) -> GPT:
    """The preset ``nano`` with freshly drawn weights."""
    torch.manual_seed(seed)
    return GPT(GPTConfig.preset("nano", vocab_size=VOCAB_SIZE))


def steps_in(minutes: float, model: GPT, world: World, seed: int) -> int:
    """How many training steps ``minutes`` hold on this machine now."""
    trial = dataclasses.replace(RECIPE, seed=seed)
    return max(20, round(minutes * 60 / seconds_per_step(model, world.data, trial)))


def judge(texts: Sequence[str]) -> dict[str, float]:
    """The shares of stories that keep their hero, home and object from the first mention to the last, and that
    come to a moral."""
    readings = [fables.judge.read(text) for text in texts]
    what = ("keeps_hero", "keeps_kind", "keeps_home", "keeps_object", "complete")
    return {name: sum(bool(getattr(r, name)) for r in readings) / max(1, len(readings)) for name in what}


def measure(model: GPT, world: World, trainer: Trainer, seed: int) -> dict[str, Any]:
    """Bits per byte on all held-out stories, and what the judge says of stories that the model writes."""
    bits = trainer.evaluate()
    assert bits is not None
    how = Sampling(temperature=TEMPERATURE)
    texts = generate_many(model, world.tokenizer, "", JUDGED, how, max_new_tokens=400, seed=seed)
    if trainer.out is not None:
        (trainer.out / "samples").mkdir(exist_ok=True)
        samples = f"\n{DOCUMENT_END}\n".join(texts) + "\n"
        files.write(trainer.out / "samples" / f"step-{trainer.step:06d}.txt", samples)
    return {
        "bits_per_byte": bits,
        "trigram_bits_per_byte": world.marks.trigram,
        "generator_bits_per_byte": world.marks.generator,
        "below_trigram": 1 - bits / world.marks.trigram,
        "judged": judge(texts),
    }


def run(
    minutes: float = 2.0,
    *,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    steps: int | None = None,
    stories: int = 3,
) -> dict[str, Any]:
    """Make a corpus, train a tokenizer and a small GPT on it, and let it write.

    Args:
        minutes: of training; a speed probe turns them into steps.
        out: where the run is kept; if there is one already, a number is added to the name.
        seed: of the corpus, the weights, the order of reading and the stories.
        steps: train so many steps instead of so many minutes; the same seed and steps give the same model.
        stories: how many to write at the end.
    """
    if not 0 < minutes < math.inf:
        raise ConfigError(f"minutes must be a number above 0, not {minutes}")
    if steps is not None and steps < 4:
        raise ConfigError(f"steps must be at least 4, not {steps}")
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    say = console.print
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out must be a folder")
    out = _free(out)
    started = time.monotonic()

    say("[bold]1. Text.[/] Fables: short stories, made up by a program, so that we know what is in them.")
    world = make_world(seed)
    train, heldout = world.data.train, world.data.heldout
    say(f"   {train.documents:,} stories, {train.bytes / 1e6:.1f} MB. The first one:\n")
    say(_block(world.stories[0].text), style="italic", markup=False)

    tok = world.tokenizer
    say(f"\n[bold]2. Tokens.[/] A byte-level BPE of {tok.vocab_size:,} tokens, trained on them:")
    words = world.stories[0].text.split(". ")[0] + "."
    say(_block("·".join(tok.decode([i]) for i in tok.encode(words))), markup=False)
    say(f"   {len(train):,} tokens, {train.bytes / len(train):.1f} bytes each.")

    model = new_model(seed)
    c = model.config
    say(
        f"\n[bold]3. Model.[/] A GPT with {model.parameter_count():,} parameters: {c.n_layer} layers, "
        f"{c.n_head} heads, {c.d_model} channels, {c.context_length} tokens of context."
    )
    given = steps is not None
    if steps is None:
        steps = steps_in(minutes, model, world, seed)
        say(f"   {minutes:g} minutes on this machine are {steps} steps.")
        say(f"   (The same model again: hornbook demo --steps {steps} --seed {seed})")

    config = recipe(steps, seed)
    say(f"\n[bold]4. Training[/], {steps} steps. The first {config.copy_steps} teach copying, on random tokens.")
    say("   How many bits a byte of unseen stories costs, against two marks:")
    say(f"     {world.marks.trigram:.3f}  a trigram model (modified Kneser–Ney) that counted the same tokens")
    say(f"     {world.marks.generator:.3f}  the story generator, which knows what it chose\n")
    marks = {"trigram": world.marks.trigram, "generator": world.marks.generator}
    trainer = Trainer(model, world.data, config, tokenizer=tok, out=out, marks=marks)
    began = time.monotonic()
    try:
        trainer.fit()
    except KeyboardInterrupt:
        if trainer.saved is not None:
            say(f"\nStopped at step {trainer.saved}, which is saved in {out}. To hear it: hornbook sample {out}")
        raise
    trained = time.monotonic() - began
    result = measure(model, world, trainer, seed)
    judged, below = result["judged"], result["below_trigram"]
    say(
        f"   {result['bits_per_byte']:.3f} bits per byte on {heldout.documents} unseen stories after {clock(trained)}: "
        f"[bold]{abs(below):.0%} {'below' if below > 0 else 'above'} the trigram[/]."
    )
    say(
        f"   Of {JUDGED} stories that it wrote, {judged['keeps_hero']:.0%} keep the hero's name throughout, "
        f"{judged['keeps_home']:.0%} the home, {judged['keeps_object']:.0%} the treasure."
    )

    say(f"\n[bold]5. Writing.[/] New fables, at temperature {TEMPERATURE}:")
    known = fables.training_pairs(world.stories)
    for number in range(stories):
        say()
        text = ""
        for piece in stream(model, tok, temperature=TEMPERATURE, max_new_tokens=400, seed=seed * 1000 + number):
            text += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
        say()
        say(f"   [dim]{_novelty(text, known)}[/]")

    report = {
        "seed": seed,
        "steps": steps,
        "minutes": None if given else minutes,
        "training_seconds": trained,
        **result,
    }
    files.write_json(out / "report.json", report)
    took = clock(time.monotonic() - started)
    say(f"\nSaved in {out}: model, tokenizer, loss.svg, log.jsonl, report.json ({took} in all).")
    say("Try next:")
    say(f'  hornbook sample {out} --prompt "Once there was a little fox named"', markup=False)
    say(f"  hornbook demo --minutes 5 --seed {seed + 1}", markup=False)
    say(
        "  hornbook tokenizer show 'The fox went home.' --tokenizer " + str(trainer_checkpoint(out)),
        markup=False,
    )
    say("  hornbook train --help", markup=False)
    return report


def trainer_checkpoint(out: Path) -> Path:
    """The newest checkpoint of the run, which is a model directory with its tokenizer."""
    from . import checkpoint

    return checkpoint.latest(out) or out


def _novelty(text: str, known: set[Any]) -> str:
    """Which combinations of facts in a story never occurred in training."""
    new = sorted(fables.judge.pairs(fables.judge.read(text)) - known)
    if not new:
        return "Every pair of facts in this story occurred in training."
    return "Never together in training: " + "; ".join(f"{f} {a} with {g} {b}" for f, a, g, b in new[:4])


def _free(out: Path) -> Path:
    """``out``, or the first of out-2, out-3, ... that holds no run."""
    candidate, number = out, 2
    while (candidate / "log.jsonl").exists():
        candidate, number = out.with_name(f"{out.name}-{number}"), number + 1
    return candidate


def _block(text: str, width: int = 100) -> str:
    """Paragraphs, indented and broken into lines."""
    lines = (textwrap.wrap(line, width, initial_indent="   ", subsequent_indent="   ") for line in text.splitlines())
    return "\n".join("\n".join(paragraph) for paragraph in lines)
