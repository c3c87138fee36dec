"""A self-test in about five seconds: tokenizer, operations, kernels, a few training steps."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from ..errors import HornbookError
from .packages import problem
from .report import Check

SECONDS = 5.0  # for the operations: on a GPU the first call of each is compiled
NEAR = 1e-3  # how far fp32 results may lie from the reference's, for numbers of about 1

Trial = Callable[[], Check]


def run() -> Iterator[Check]:
    """Do the things that everything else is made of, once."""
    trials: tuple[tuple[str, tuple[str, ...], Trial], ...] = (
        ("tokenizer", ("numpy",), tokenizer),
        ("operations", ("torch", "numpy"), operations),
        ("interpreter", ("torch", "numpy"), interpreted),
        ("training", ("torch", "numpy", "safetensors"), training),
    )
    for name, needs, trial in trials:
        if missing := [package for package in needs if problem(package) is not None]:
            yield Check("self-test", name, "note", f"not tried: {missing[0]} cannot be imported (see Packages)")
            continue
        started = time.monotonic()
        try:
            found = trial()
        except Exception as error:  # whatever it is, it is what the test is for
            words = f"failed: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            cure = "" if isinstance(error, HornbookError) else "reinstall what is named above as broken, or report this"
            found = Check("self-test", name, "problem", words, cure)
        seconds = time.monotonic() - started
        text = f"{found.text} ({seconds:.1f} s)" if found.status == "ok" else found.text
        yield Check(found.section, found.name, found.status, text, found.cure, {**found.data, "seconds": seconds})


def tokenizer() -> Check:
    """Train a small tokenizer, and bring a text there and back."""
    from ..corpora import fables
    from ..tokenizer import Tokenizer

    texts = [story.text for story in fables.generate(20_000)]
    tok = Tokenizer.train(texts, vocab_size=400)
    for text in (*texts[:5], "naïve café, 中文, 👩‍🚀, \x00\t\r\n  end"):
        if (back := tok.decode(tok.encode(text))) != text:
            return Check("self-test", "tokenizer", "problem", f"{text!r} came back as {back!r}", "please report this")
    rate = sum(len(text.encode()) for text in texts) / sum(map(len, tok.encode_batch(texts)))
    words = f"trained 400 tokens on {len(texts)} stories, {rate:.2f} bytes each, and texts come back whole"
    return Check("self-test", "tokenizer", "ok", words)


def _cases(device: Any) -> dict[str, tuple[Any, ...]]:
    """Small arguments of each operation; small, odd numbers find what is wrong with the edges of blocks."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def r(*shape: int) -> Any:
        return torch.randn(shape, generator=generator).to(device)

    def below(most: int, *shape: int) -> Any:
        return torch.randint(most, shape, generator=generator).to(device)

    angles = r(17, 8)
    lengths = torch.tensor([20, 7], dtype=torch.int32, device=device)
    return {
        "softmax": (r(7, 50),),
        "attention": (r(2, 17, 4, 16), r(2, 17, 2, 16), r(2, 17, 2, 16)),
        "layer_norm": (r(7, 50), r(50), r(50)),
        "linear_cross_entropy": (r(9, 64), r(50, 64), below(50, 9)),
        "gelu": (r(7, 50),),
        "rms_norm": (r(7, 50), r(50)),
        "rope": (r(2, 17, 4, 16), angles.cos(), angles.sin()),
        "swiglu": (r(7, 50), r(7, 50)),
        "cross_entropy": (r(9, 50), below(50, 9)),
        "add_norm": (r(7, 50), r(7, 50), r(50), r(50)),
        "decode_attention": (r(2, 1, 4, 16), r(2, 20, 2, 16), r(2, 20, 2, 16), lengths),
        "sample_logits": (r(4, 50), r(4).sigmoid()),
        "relu2": (r(7, 50),),
    }


def _distance(a: Any, b: Any) -> float:
    """The largest difference of two results, which may be several tensors."""
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else ((a, b),)
    return max(float((x.double().cpu() - y.double().cpu()).abs().nan_to_num(float("inf")).max()) for x, y in pairs)


def operations() -> Check:
    """What each operation runs here, against the reference, until the time is over."""
    from .. import device, ops

    chosen = device.pick()
    kernels, cases = ops.kernels_in_use(), _cases(chosen)
    started, far, tried = time.monotonic(), {}, []
    for op, arguments in cases.items():
        if time.monotonic() - started > SECONDS:
            break
        reference = getattr(importlib.import_module(f"..reference.{op}", __package__), op)
        distance = _distance(getattr(ops, op)(*arguments), reference(*arguments))
        tried.append(op)
        if not distance <= NEAR:
            far[op] = distance
    data = {"tried": tried, "device": chosen.type, "far": far}
    if far:
        named = ", ".join(f"{op} ({kernels[op]}) is off by {distance:.2g}" for op, distance in far.items())
        cure = f"choose --kernels {','.join(f'{op}=reference' for op in far)} for now, and please report this"
        return Check("self-test", "operations", "problem", named, cure, data)
    which = ", ".join(sorted({kernels[op] for op in tried}))
    left = f"; no time was left for {len(cases) - len(tried)}, run it again" if len(tried) < len(cases) else ""
    words = f"{len(tried)} of {len(cases)} agree with the reference on {chosen.type} ({which}){left}"
    return Check("self-test", "operations", "ok", words, data=data)


def interpreted() -> Check:
    """One of our kernels in Triton's interpreter, where it is on and there is no GPU to run them on."""
    import torch

    from .. import ops
    from ..kernels import interpreter

    if torch.cuda.is_available():
        return Check("self-test", "interpreter", "ok", "not needed: kernels run on the GPU")
    if (why := ops.kernels_problem()) is not None:
        return Check("self-test", "interpreter", "note", f"no kernel was tried: {why}")
    if not interpreter.is_on():
        words = f"no kernel was tried: Triton's interpreter is off ({interpreter.VARIABLE}=1 turns it on)"
        return Check("self-test", "interpreter", "note", words)
    interpreter.switch_on()
    from ..kernels.softmax import softmax
    from ..reference.softmax import softmax as reference

    (x,) = _cases("cpu")["softmax"]
    if not (distance := _distance(softmax(x), reference(x))) <= NEAR:
        cure = "take a Triton and a NumPy that the tests ran with (README), and please report this"
        return Check("self-test", "interpreter", "problem", f"our softmax is off by {distance:.2g}", cure)
    return Check("self-test", "interpreter", "ok", "our softmax, run there, agrees with the reference")


def training() -> Check:
    """A very small model learns one sentence: the loss falls."""
    import torch

    from .. import ops
    from ..data import TokenData
    from ..model import GPT, GPTConfig
    from ..tokenizer import Tokenizer
    from ..train import TrainConfig, Trainer

    texts = ["The fox went home. The owl went home. "] * 8
    tok = Tokenizer.train(texts, vocab_size=257)
    data = TokenData.from_text(texts, tok, heldout=texts[:2])
    slow = not torch.cuda.is_available() and "fused" in ops.kernels_in_use().values()
    with torch.random.fork_rng(), ops.use_kernels("torch") if slow else nullcontext():
        torch.manual_seed(0)
        shape = GPTConfig(vocab_size=tok.vocab_size, context_length=32, n_layer=1, n_head=2, d_model=32)
        trainer = Trainer(GPT(shape), data, TrainConfig(steps=12, batch_size=2, learning_rate=0.01), quiet=True)
        before = trainer.evaluate()
        after = trainer.fit()["heldout_bits_per_byte"]
    assert before is not None
    data_ = {"before": before, "after": after, "device": trainer.device.type}
    words = f"12 steps on {trainer.device.type}: the loss went from {before:.2f} to {after:.2f} bits per byte"
    if not after < 0.8 * before:
        cure = "look at the operations above; if they agree, please report this"
        return Check("self-test", "training", "problem", f"{words}, and should have fallen", cure, data_)
    return Check("self-test", "training", "ok", words, data=data_)
