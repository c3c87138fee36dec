"""How fast a model trains and writes with each set of kernels.

    hornbook bench model                                  # GPT-2, 124 M parameters, on a CUDA GPU
    hornbook bench model --preset nano --device cpu       # a look at the machinery without one

One training step is forward, backward and AdamW's step on rows of a whole context, activations in bf16; one decoding
step reads one token with 512 others in the cache, weights in bf16. The sets take turns: ``reference``, ``torch``,
``fused``, and ``composed``, which is ``fused`` with ``attention=composed``. Before that, losses and gradients from the
same weights are compared: sets that compute the same model agree.

MFU is the share of the card's measured matmul rate that the model's products of matrices make up (`flops_per_token`).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import device as device_
from .. import files, ops, optim
from ..cache import KVCache
from ..errors import ConfigError
from ..model import GPT, GPTConfig
from . import report, timing

SETS: dict[str, dict[str, str]] = {  # name → operation → implementation, "" for all
    "reference": {"": "reference"},
    "torch": {"": "torch"},
    "composed": {"": "fused", "attention": "composed"},
    "fused": {"": "fused"},
}
CACHED = 512  # tokens, in a decoding step
BATCHES = (16, 8, 4, 2, 1)  # rows of a training step: the first that all sets have memory for
# What the formats' rounding explains, relative: of the loss, and of the gradient as one long vector.
TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (2e-3, 5e-2)}


def use(name: str) -> ops.use_kernels:
    """`use_kernels` for one of `SETS`."""
    choice = dict(SETS[name])
    return ops.use_kernels(choice.pop("", None), **choice)


class Training:
    """One model and its optimizer, and steps of them with any set of kernels."""

    def __init__(self, config: GPTConfig, device: torch.device, dtype: str) -> None:
        torch.manual_seed(0)
        self.model = GPT(config).to(device)
        self.model.compute_dtype = device_.dtype(dtype)
        self.optimizers = optim.build(
            self.model, "adamw", learning_rate=1e-4, muon_learning_rate=0.0, weight_decay=0.1, betas=(0.9, 0.95)
        )
        self.ids = self.targets = torch.empty(0)

    def new_batch(self, rows: int) -> None:
        """Random tokens, ``rows`` of a whole context each."""
        config, device = self.model.config, self.model.embed.weight.device
        shape = (rows, config.context_length)
        self.ids, self.targets = (torch.randint(config.vocab_size, shape, device=device) for _ in range(2))

    def gradient(self) -> Tensor:
        """Forward and backward; the loss."""
        loss = self.model(self.ids, self.targets)
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        """A whole training step."""
        self.gradient()
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def first(self, name: str) -> tuple[float, list[Tensor]]:
        """Loss and gradient of every parameter, from the weights as they are."""
        with use(name):
            loss = self.gradient()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.model.parameters()]
        self.model.zero_grad(set_to_none=True)
        return loss.item(), grads


class Decoding:
    """One model and a full cache, and steps of one token with any set of kernels."""

    def __init__(self, config: GPTConfig, device: torch.device, dtype: str, rows: int) -> None:
        torch.manual_seed(0)
        self.model = GPT(config).to(device, device_.dtype(dtype)).eval()
        self.model.compute_dtype = device_.dtype(dtype)
        self.cached = min(CACHED, config.context_length - 1)
        self.cache: KVCache = self.model.new_cache(rows, self.cached + 1)
        self.ids = torch.randint(config.vocab_size, (rows, 1), device=device)
        with torch.inference_mode(), use("torch"):
            self.model(torch.randint(config.vocab_size, (rows, self.cached), device=device), cache=self.cache)

    def step(self) -> Tensor:
        """One token more for each sequence, (rows,), which the cache then forgets."""
        with torch.inference_mode():
            logits = self.model(self.ids, cache=self.cache)  # (rows, 1, V)
            self.cache.truncate(self.cached)
            return logits[:, -1].argmax(-1)


def run(
    preset: str = "gpt2",
    device: str = "auto",
    quick: bool = False,
    batch_size: int | None = None,
    out: Path | None = None,
) -> dict[str, Any] | None:
    """``hornbook bench model``; the whole result, or None without a CUDA GPU (unless ``device`` names another one)."""
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"device is auto, cuda or cpu, not {device!r}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is a number of rows, at least 1, not {batch_size}")
    config = GPTConfig.preset(preset)
    if device == "auto" and not torch.cuda.is_available():
        report.without_cuda(quick=quick, minutes=report.QUICK_MINUTES if quick else None)
        return None
    place_to_run = device_.pick("cuda" if device == "auto" else device)
    on_gpu = place_to_run.type == "cuda"
    names = list(SETS) if on_gpu else ["reference", "torch"]
    dtype = "bf16" if on_gpu else "fp32"
    if on_gpu:
        report.require_compiler()
    began = time.monotonic()
    facts = report.machine()
    place = report.folder(out, facts["gpu"] if on_gpu else f"{facts['cpu']} {place_to_run.type}")
    measure: timing.Measure = timing.CudaClock(flush=False) if on_gpu else timing.host_clock
    rate = timing.matmul_rate(timing.CudaClock() if on_gpu else measure, dtype, place_to_run, 8192 if on_gpu else 512)
    result: dict[str, Any] = facts | {"benchmark": "model", "preset": preset, "dtype": dtype, "quick": quick}
    result |= {"device": str(place_to_run), "matmul_flops_per_second": rate, "notes": {}}
    print(f"{facts['gpu'] if on_gpu else facts['cpu']}: matmul {dtype} {rate / 1e12:.3g} TFLOP/s", flush=True)
    seconds = 2.0 if quick else 10.0
    training = Training(config, place_to_run, dtype)
    batches = (batch_size,) if batch_size else BATCHES if on_gpu else (2,)
    result["first_step"] = agreement(training, names, batches, dtype, result["notes"])
    names = list(result["first_step"]["loss"])
    steps = timed("training", training.step, names, measure, seconds, on_gpu, result["notes"])
    tokens = training.ids.numel()
    flops = 3 * training.model.flops_per_token() * tokens
    result["training"] = {
        "rows": len(training.ids),
        "tokens": tokens,
        **steps,
        "tokens_per_second": {name: tokens / t["median"] * 1000 for name, t in steps["ms"].items()},
        "mfu": {name: flops / (t["median"] / 1000) / rate for name, t in steps["ms"].items()},
    }
    del training
    result["decoding"] = []
    for rows in (1, 8):
        decoding = Decoding(config, place_to_run, dtype, rows)
        steps = timed("decoding", decoding.step, names, measure, seconds / 2, on_gpu, result["notes"])
        speed = {name: rows / t["median"] * 1000 for name, t in steps["ms"].items()}
        result["decoding"].append({"rows": rows, "cached": decoding.cached, **steps, "tokens_per_second": speed})
    result["failed"] = [name for name in SETS if name in result["notes"]]
    result["seconds"] = time.monotonic() - began
    files.write_json(place / "model.json", result)
    files.write(place / "model.md", markdown(result))
    print("\n" + markdown(result))
    report.note(f"{place}: model.json and model.md")
    print(json.dumps(digest(result) | {"out": str(place)}))
    return result


def agreement(
    training: Training, names: list[str], batches: tuple[int, ...], dtype: str, notes: dict[str, str]
) -> dict[str, Any]:
    """Find the largest batch that every set has memory for, and compare their losses and gradients there.

    Args:
        batches: rows to try, the most first; with the last, a set without enough memory is left out.
        notes: who is left out and why, added to.

    Returns:
        "loss", name → nats; "gradient", name → distance from that of the first name, relative to its length; "wrong",
        the names that are too far off.
    """
    losses: dict[str, float] = {}
    distances: dict[str, float] = {}
    for rows in batches:
        torch.cuda.empty_cache()
        training.new_batch(rows)
        base: list[Tensor] = []
        losses.clear()
        distances.clear()
        try:
            for name in names:
                try:
                    losses[name], grads = training.first(name)
                except Exception as error:
                    training.model.zero_grad(set_to_none=True)
                    if isinstance(error, torch.OutOfMemoryError) and rows != batches[-1]:
                        raise
                    notes[name] = f"first step: {report.because(error)}"
                    continue
                base = base or grads
                distances[name] = _length([a - b for a, b in zip(grads, base, strict=True)]) / _length(base)
        except torch.OutOfMemoryError:
            continue
        break
    near_loss, near_gradient = TOLERANCE[dtype]
    right = next(iter(losses.values()), 0.0)
    agree = {name for name in losses if abs(losses[name] - right) <= near_loss * abs(right)}
    agree &= {name for name in distances if distances[name] <= near_gradient}
    return {"loss": losses, "gradient": distances, "wrong": [name for name in losses if name not in agree]}


def _length(tensors: list[Tensor]) -> float:
    return torch.stack([t.norm() for t in tensors]).norm().item()


def timed(
    what: str,
    step: timing.Call,
    names: list[str],
    measure: timing.Measure,
    seconds: float,
    on_gpu: bool,
    notes: dict[str, str],
) -> dict[str, Any]:
    """Time ``step()`` with the kernels of each name, in turns.

    Returns:
        "ms", name → times; "peak_bytes", name → memory of a step beyond what was taken before (on CUDA).
    """

    def chosen(name: str) -> timing.Call:
        def call() -> float:
            with use(name):  # before the clock starts
                return measure(step)

        return call

    calls: dict[str, timing.Call] = {}
    memory: dict[str, int] = {}
    for name in names:
        try:
            chosen(name)()
            with use(name):
                memory |= {name: timing.peak_memory(step)} if on_gpu else {}
            calls[name] = chosen(name)
        except Exception as error:
            notes[name] = f"{what}: {report.because(error)}"
    times = timing.round_robin(calls, lambda call: call(), seconds=seconds, least=3, most=200) if calls else {}
    return {"ms": {name: asdict(t) for name, t in times.items()}, "peak_bytes": memory}


def markdown(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    training, first = result["training"], result["first_step"]
    where = result["gpu"] if result["device"].startswith("cuda") else f"{result['cpu']}, {result['device']}"
    rate = f"{result['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s"
    versions = ", ".join(f"{name} {result[name]}" for name in ("torch", "triton", "hornbook"))
    text = (
        f"# {result['preset']} on {where}\n\n{result['date']}, {versions}; matmul {result['dtype']} {rate}.\n\n"
        f"A training step of {training['rows']} rows, {training['tokens']:,} tokens, activations in {result['dtype']}. "
        "MFU is against that matmul rate; memory is a step's peak beyond weights and optimizer.\n\n"
    )
    text += report.table(
        ["kernels", "ms", "tokens/s", "MFU", "peak GiB", "first loss", "gradient's distance"],
        [
            [
                name,
                report.number(t["median"], 4),
                f"{training['tokens_per_second'][name]:,.0f}",
                f"{training['mfu'][name]:.1%}",
                report.number(training["peak_bytes"][name] / 2**30) if name in training["peak_bytes"] else "–",
                f"{first['loss'][name]:.5f}" + (" WRONG" if name in first["wrong"] else ""),
                f"{first['gradient'][name]:.1e}",
            ]
            for name, t in training["ms"].items()
        ],
    )
    for decoding in result["decoding"]:
        text += f"\nA decoding step of {decoding['rows']} sequences, {decoding['cached']} tokens in the cache.\n\n"
        text += report.table(
            ["kernels", "ms", "tokens/s"],
            [
                [name, report.number(t["median"]), f"{decoding['tokens_per_second'][name]:,.0f}"]
                for name, t in decoding["ms"].items()
            ],
        )
    notes = [f"- {name}: {words}\n" for name, words in result["notes"].items()]
    return text + ("\nNotes:\n\n" + "".join(notes) if notes else "")


def digest(result: dict[str, Any]) -> dict[str, Any]:
    """The result in a few numbers."""
    training = result["training"]
    return {
        "gpu": result["gpu"],
        "preset": result["preset"],
        "rows": training["rows"],
        "tokens_per_second": {name: round(speed) for name, speed in training["tokens_per_second"].items()},
        "mfu": {name: round(share, 4) for name, share in training["mfu"].items()},
        "decoding_ms": {
            str(d["rows"]): {n: round(t["median"], 4) for n, t in d["ms"].items()} for d in result["decoding"]
        },
        "wrong": result["first_step"]["wrong"],
        "failed": result["failed"],
    }
