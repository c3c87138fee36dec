"""What each command of ``hornbook`` does.

A function's parameters are the command's options and its docstring their help. Modules that need torch are imported
inside, so that the commands which do not need it answer at once. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from ..benchmarks.commands import bench_attention, bench_kernels, bench_model, bench_tokenizer
from ..errors import ConfigError
from .common import Field, Kernels, Sources, check_place, meter, note, open_tokenizer, opened, parse_size, use
from .tokenizer import (
    tokenizer_compare,
    tokenizer_count,
    tokenizer_decode,
    tokenizer_encode,
    tokenizer_show,
    tokenizer_train,
)


def demo(
    minutes: float = 2.0,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    steps: int | None = None,
    stories: int = 3,
    kernels: Kernels = None,
) -> None:
    """Make a corpus, train a tokenizer and a small GPT on it, and let it write stories.

    Args:
        minutes: of training; a speed probe turns them into steps.
        out: where the run is kept; if there is one already, a number is added to the name.
        seed: of everything that is drawn.
        steps: train so many steps instead; the same seed and steps give the same model.
        stories: how many to write at the end.
    """
    use(kernels)
    from ..demo import run

    run(minutes, out=out, seed=seed, steps=steps, stories=stories)


def corpus_list() -> None:
    """The corpora that Hornbook knows."""
    from ..corpora import CORPORA

    for corpus in CORPORA.values():
        print(f"{corpus.name:12} {corpus.about} ({corpus.licence})")


def corpus_show(name: Positional[Annotated[str, arg(metavar="CORPUS")]], count: int = 3, seed: int = 0) -> None:
    """Print the beginning of a corpus.

    Args:
        name: a corpus of ``hornbook corpus list``, a file or a folder.
        count: documents to print.
        seed: of a generated corpus.
    """
    from itertools import islice

    from ..corpora import CORPORA, documents, fables

    if name in CORPORA and not Path(name).exists():
        texts = (story.text for story in fables.stories(seed=seed))
    else:
        texts = documents(name)
    print("\n\n".join(islice(texts, max(0, count))))


def corpus_write(
    name: Positional[Annotated[str, arg(metavar="CORPUS")]],
    *,
    out: Path,
    size: str | None = None,
    seed: int = 0,
    split: Literal["train", "heldout"] = "train",
) -> None:
    """Write a corpus as one text file, with a line <|endoftext|> between documents.

    Args:
        name: a corpus of ``hornbook corpus list``.
        out: the file.
        size: such as 500KB, 5MB, 1GB; the corpus's own if not given.
        seed: of a generated corpus.
        split: which part.
    """
    from ..corpora import write

    check_place(out)
    size_written = write(name, out, None if size is None else parse_size(size), seed=seed, split=split)
    note(f"{out}: {size_written:,} bytes")


def prepare(
    source: Sources,
    *,
    tokenizer: str,
    out: Path,
    field: Field = "text",
    heldout: float = 0.05,
    size: str | None = None,
    seed: int = 0,
) -> None:
    """Encode text into token shards for training.

    Args:
        source: text, .jsonl or .parquet files, packed as .gz or .zst or not, folders of them, or a corpus's name.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
        out: the folder to write the shards to.
        heldout: the share of documents to keep for measuring; a corpus that has its own held-out part uses that.
        size: of a generated corpus, such as 5MB.
        seed: of a generated corpus.
    """
    from .. import corpora
    from ..data import prepare as prepare_
    from ..documents import Files

    check_place(out, folder=True)
    texts: Any
    kept_back: Any = heldout
    total: int | None = None
    if source == ["fables"] and not Path("fables").exists():
        total = corpora.CORPORA["fables"].size if size is None else parse_size(size)
        kept_back = [
            s.text for s in corpora.fables.generate(max(4000, round(total * heldout)), seed=seed, split="heldout")
        ]
        texts = (s.text for s in corpora.fables.generate(total, seed=seed))
    elif size is not None:
        raise ConfigError("--size is for generated corpora; a file is read whole")
    else:
        texts = opened(source, field)
    with meter() as progress:

        def tell(documents: int, done: int) -> None:
            if isinstance(texts, Files):
                progress("encode", texts.bytes_read, texts.total_bytes)
            else:
                progress("encode", min(done, total or done), total)

        data = prepare_(texts, open_tokenizer(tokenizer), out, heldout=kept_back, progress=tell)
    for name, split in (("train", data.train), ("heldout", data.heldout)):
        note(f"{out}: {name}: {split.documents:,} documents, {split.bytes:,} bytes, {len(split):,} tokens")


def train(argv: list[str]) -> None:
    """``hornbook train``."""
    import torch

    from ..data import TokenData
    from ..model import GPT, GPTConfig
    from ..train import Trainer

    options = train_options(argv)
    use(options.kernels)
    data = TokenData(options.data)
    torch.manual_seed(options.train.seed)
    vocab_size = data.tokenizer.vocab_size
    if options.model.vocab_size not in (vocab_size, GPTConfig.preset(options.preset).vocab_size):
        raise ConfigError(f"vocab_size is that of the data's tokenizer, {vocab_size}: leave out --model.vocab-size")
    model = GPT(replace(options.model, vocab_size=vocab_size))
    trainer = Trainer(model, data, options.train, out=options.out, resume=options.resume)
    note(f"{model.parameter_count():,} parameters, {len(data.train):,} training tokens")
    try:
        last = trainer.fit()
    except KeyboardInterrupt:
        saved = "not saved" if trainer.saved is None else f"saved at step {trainer.saved}"
        note(f"stopped, {saved}, in {options.out}; the same command with --resume goes on")
        raise
    bits = last.get("heldout_bits_per_byte")
    note(
        f"{options.out}: {trainer.step} steps"
        + ("" if bits is None else f", {bits:.4f} bits per byte of held-out text")
    )


def train_options(argv: list[str]) -> Any:
    """What the options of ``hornbook train`` say; those of the model start from the preset's."""
    from ..model import PRESETS, GPTConfig
    from ..train import TrainConfig

    preset = re.search(r"--preset[= ](\S+)", " ".join(argv))
    shape = GPTConfig.preset(preset[1] if preset and preset[1] in PRESETS else "nano")
    options = make_dataclass(
        "TrainOptions",
        [
            ("data", Annotated[Path, arg(help="the folder that `hornbook prepare` wrote")]),
            ("out", Annotated[Path, arg(help="the run's folder")]),
            (
                "preset",
                Annotated[Literal[tuple(PRESETS)], arg(help="the model's shape; --model.* change it")],
                "nano",
            ),
            ("resume", Annotated[bool, arg(help="go on from the newest checkpoint in --out")], False),
            ("kernels", Kernels, None),
            ("train", tyro.conf.OmitArgPrefixes[TrainConfig], TrainConfig()),
            ("model", GPTConfig, shape),
        ],
    )
    about = "Train a GPT on token shards. The same command with --resume goes on after any end."
    return tyro.cli(options, prog="hornbook train", description=about, args=argv)


def sample(
    model: Positional[Path],
    *,
    prompt: str = "",
    tokenizer: str | None = None,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    stop: tuple[str, ...] = (),
    seed: int | None = None,
    device: str = "auto",
    kernels: Kernels = None,
) -> None:
    """Continue a text with a trained model; the new text goes to stdout as it is written.

    Args:
        model: a run or a model directory.
        prompt: what to continue; empty for a new document.
        tokenizer: if the model directory has none.
        max_new_tokens: the most to write.
        temperature: 0 for the likeliest token each time, 1 for the model's own distribution.
        top_k: draw from the k likeliest tokens only; 0 for all.
        top_p: draw from the likeliest tokens whose probabilities sum to p.
        min_p: leave out tokens less than min_p times as likely as the likeliest.
        repetition_penalty: above 1 makes tokens that occurred less likely.
        num_beams: above 1, search for the likeliest text instead of drawing one.
        stop: texts that end the writing.
        seed: the same seed writes the same text.
        device: auto, cpu, cuda or mps.
    """
    use(kernels)
    from .. import device as device_
    from ..interop import load
    from ..sample import stream

    gpt, tok = load(model)
    gpt.to(device_.pick(device))
    if tokenizer is not None:
        tok = open_tokenizer(tokenizer)
    if tok is None:
        raise ConfigError(f"{model} has no tokenizer: name one with --tokenizer")
    how: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "num_beams": num_beams, "stop": stop, "seed": seed,
    }  # fmt: skip
    for piece in stream(gpt, tok, prompt, **how):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()


def doctor() -> None:
    """Print what is installed here, what hardware there is, and which implementation each operation runs."""
    from ..doctor import run

    run()


COMMANDS: dict[str, Callable[..., None] | dict[str, Callable[..., None]]] = {
    "demo": demo,
    "corpus": {"list": corpus_list, "show": corpus_show, "write": corpus_write},
    "tokenizer": {
        "train": tokenizer_train,
        "count": tokenizer_count,
        "encode": tokenizer_encode,
        "decode": tokenizer_decode,
        "show": tokenizer_show,
        "compare": tokenizer_compare,
    },
    "prepare": prepare,
    "train": train,
    "sample": sample,
    "doctor": doctor,
    "bench": {
        "attention": bench_attention,
        "kernels": bench_kernels,
        "model": bench_model,
        "tokenizer": bench_tokenizer,
    },
}
