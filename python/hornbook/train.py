"""Pretraining: batches in, a better model and a record of how it got there out.

A run lives in a folder:

    config.toml     every setting it used: `hornbook train --config config.toml --out ...` does the same again
    log.jsonl       one line a step
    loss.svg        the losses, drawn
    checkpoints/    model, tokenizer, optimizers, step, data cursor, random generators, configuration: all that the
                    next step depends on, so that a resumed run repeats an undisturbed one bit for bit
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

import torch
from torch import Tensor

from . import checkpoint, device, files, ops, optim
from . import config as config_
from .data import Batches, Packing, TokenData, copy_batch
from .errors import ConfigError, HornbookError
from .evaluate import bits_per_byte
from .model import GPT
from .runlog import Progress, RunLog

log = logging.getLogger("hornbook")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A step is one change of the weights; sizes are in tokens unless they say otherwise."""

    steps: int = 1000
    batch_size: int = 16
    """rows in a micro-batch"""
    accumulate: int = 1
    """micro-batches in a step; each target counts the same, whichever micro-batch it is in"""
    context_length: int | None = None
    """tokens in a row; the model's if not given"""
    packing: Packing = "auto"
    """whether rows start where documents start; see `data.Batches`"""
    optimizer: optim.Name = "muon"
    learning_rate: float = 1e-3
    """AdamW's peak: of every parameter, or of those that muon leaves to it"""
    muon_learning_rate: float = 0.02
    warmup: float = 0.02
    """share of the steps in which the rate rises to its peak"""
    final_rate: float = 0.0
    """the rate at the end, as a share of the peak"""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """largest norm of the gradient; 0 for no limit"""
    copy_steps: int = 0
    """steps before the first text, of the total: rows of random tokens that only copying can predict"""
    copy_length: int = 64
    """tokens in a row of theirs; there are as many more rows"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """of the activations; weights and optimizer stay in fp32"""
    device: str = "auto"
    seed: int = 0
    eval_every: int = 250
    """steps between measurements on held-out text; 0 for the end only"""
    eval_tokens: int = 100_000
    """held-out tokens to measure on"""
    checkpoint_every: int = 500
    """steps between checkpoints; 0 for the end only"""
    keep: int = 2
    """checkpoints to keep, the newest"""

    def __post_init__(self) -> None:
        config_.check_types(self)
        for name in ("steps", "batch_size", "accumulate", "keep", "eval_tokens", "copy_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "learning_rate",
            "muon_learning_rate",
            "weight_decay",
            "clip",
            "copy_steps",
            "eval_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.copy_length < 8:
            raise ConfigError(f"copy_length must be at least 8, not {self.copy_length}")
        if self.copy_steps >= self.steps:
            raise ConfigError(
                f"copy_steps ({self.copy_steps}) are part of steps ({self.steps}) and must leave some for text"
            )
        if not 0 <= self.warmup <= 1 or not 0 <= self.final_rate <= 1:
            raise ConfigError("warmup and final_rate are shares: give a number from 0 to 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be at least 0 and below 2**63, not {self.seed}")


# What a resumed run may change without being another run.
FREE_ON_RESUME = {"steps", "device", "eval_every", "eval_tokens", "checkpoint_every", "keep"}


def schedule(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of ``step`` (from 0) as a share of its peak: a line up, then half a cosine down."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)  # 0 ... 1
    return config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * progress)) / 2


class Trainer:
    """Trains a model on token data.

    Args:
        model: changed in place.
        data: training and held-out text.
        config: how.
        tokenizer: saved with every checkpoint; the data's own if not given.
        out: the run's folder; None keeps nothing on the disk.
        resume: go on from the folder's latest checkpoint, or begin if there is none yet.
        marks: name → bits per byte to compare with, drawn into the loss curve.
        quiet: no progress line.
    """

    def __init__(
        self,
        model: GPT,
        data: TokenData,
        config: TrainConfig | None = None,
        *,
        tokenizer: Any = None,
        out: str | Path | None = None,
        resume: bool = False,
        marks: Mapping[str, float] | None = None,
        quiet: bool = False,
    ) -> None:
        self.config = config or TrainConfig()
        self.data, self.tokenizer = data, tokenizer or data.tokenizer
        self.out = None if out is None else Path(out)
        self.marks, self.quiet = dict(marks or {}), quiet
        if self.tokenizer.vocab_size > model.config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens, the model's vocab_size is "
                f"{model.config.vocab_size}: make the model with vocab_size={self.tokenizer.vocab_size}"
            )
        self.T = self.config.context_length or model.config.context_length
        if self.T > model.config.context_length:
            raise ConfigError(
                f"rows of {self.T} tokens do not fit into the model's context of {model.config.context_length}"
            )
        if self.config.copy_steps and self.T < 8:
            raise ConfigError(f"copying needs rows of at least 8 tokens, not {self.T}: leave out copy_steps")

        self.device = device.pick(self.config.device)
        self.model = model.to(self.device)
        self.model.compute_dtype = device.dtype(self.config.dtype, self.device)
        self.batches = Batches(
            data.train, self.config.batch_size, self.T, seed=self.config.seed, packing=self.config.packing
        )
        self.token_bytes = data.token_bytes()
        self.bytes_per_token = data.train.bytes / max(1, len(data.train))
        self.optimizers = self._new_optimizers()
        self.step = 0  # steps done
        self.saved: int | None = None  # the step of the newest checkpoint
        torch.manual_seed(self.config.seed)  # for dropout: the weights were drawn when the model was made
        self.log: RunLog | None = None
        if self.out is not None:
            self._open(self.out, resume)

    def fit(self) -> dict[str, float]:
        """Train to the last step; Ctrl-C ends the run after the current one, with a checkpoint.

        Returns:
            The last log entries: "loss" in nats a token, "heldout_bits_per_byte".

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
        """
        config, last = self.config, {}
        self.model.train()
        with (
            nullcontext() if self.out is None else _alone(self.out),
            _interruptible() as interrupted,
            Progress(self.config.steps, self.step, quiet=self.quiet) as progress,
        ):
            while self.step < self.config.steps:
                entry = self._one_step()
                done = self.step == self.config.steps
                progress.update(self.step, entry["loss"], entry["tokens_per_second"])
                if (done or _due(self.step, self.config.eval_every)) and (
                    bits := self.evaluate(config.eval_tokens)
                ) is not None:
                    entry["heldout_bits_per_byte"] = bits
                    progress.measured(self.step, bits)
                last |= entry
                if self.log is not None:
                    self.log.write(**entry)
                if self.out is not None and (done or interrupted() or _due(self.step, self.config.checkpoint_every)):
                    self.save()
                if interrupted() and not done:
                    raise KeyboardInterrupt
            if self.log is not None:
                progress.ended(self.log.losses(self._scale), "bits per byte")
        if self.log is not None:
            self.log.close()
        return last

    def _draw(self) -> None:
        """loss.svg, in bits per byte."""
        if self.log is not None and self.out is not None:
            self.log.draw(self.out / "loss.svg", scale=self._scale, marks=self.marks)

    @property
    def _scale(self) -> float:
        """What turns a loss, in nats a token, into bits per byte."""
        return 1 / math.log(2) / max(self.bytes_per_token, 1e-9)

    def evaluate(self, limit: int | None = None) -> float | None:
        """Bits per byte of ``limit`` tokens of held-out text (of all if None), or None if nothing was held out."""
        if not len(self.data.heldout):
            return None
        return bits_per_byte(
            self.model, self.data.heldout, self.token_bytes,
            context_length=self.T, limit=limit,
        )  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint: model, tokenizer, optimizers, step, data cursor, random generators, configuration."""
        assert self.out is not None
        state = {
            "cursor": self.batches.cursor,
            "data": self._identity(),
            "config": config_.to_dict(self.config),
        }
        options: dict[str, Any] = {"tokenizer": self.tokenizer, "keep": self.config.keep}
        checkpoint.save(self.out, self.step, self.model, self.optimizers, state, **options)
        self.saved = self.step
        self._draw()

    def _identity(self) -> dict[str, Any]:
        """What tells this data from other data: a cursor means something in the one it was made for only."""
        train = self.data.train
        return {"tokenizer": self.data.tokenizer.hash, "documents": train.documents, "tokens": len(train)}

    def _one_step(self) -> dict[str, Any]:
        """One change of the weights; returns the log's entry."""
        config, started = self.config, time.perf_counter()
        copying = self.step < config.copy_steps
        if self.step == config.copy_steps:
            self.optimizers = self._new_optimizers()  # what was learned stays, the momentum of copying goes
        micro = [self._copy_batch(i) if copying else self.batches.next() for i in range(config.accumulate)]
        targets = sum(int((t != -100).sum()) for _, t in micro)
        loss = 0.0
        for ids, target in micro:
            # Summed, then divided by the step's count: a mean of micro-batches' means would weigh a target in a
            # batch of few targets more.
            part = self.model(ids.to(self.device), target.to(self.device), reduction="sum") / targets
            part.backward()
            loss += float(part.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise HornbookError(
                f"step {self.step + 1}: the loss is {loss}, the norm of its gradient {norm}: try a lower learning_rate "
                "or a longer warmup; the last checkpoint is untouched"
            )
        phase = (
            (self.step, config.copy_steps)
            if copying
            else (self.step - config.copy_steps, config.steps - config.copy_steps)
        )
        optim.set_rate(self.optimizers, schedule(*phase, config))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        tokens = sum(ids.numel() for ids, _ in micro)
        return {
            "step": self.step,
            "phase": "copy" if copying else "text",
            "loss": loss,
            "gradient_norm": norm,
            "rate": self.optimizers[0].param_groups[0]["lr"],
            "tokens_per_second": tokens / max(1e-9, time.perf_counter() - started),  # a coarse clock may stand
        }

    def _copy_batch(self, micro: int) -> tuple[Tensor, Tensor]:
        length = min(self.config.copy_length, self.T)
        rows = self.config.batch_size * max(1, self.T // length)
        number = self.step * self.config.accumulate + micro
        return copy_batch(rows, length, self.tokenizer.vocab_size, seed=self.config.seed, step=number)

    def _new_optimizers(self) -> list[torch.optim.Optimizer]:
        c = self.config
        return optim.build(
            self.model, c.optimizer, learning_rate=c.learning_rate, muon_learning_rate=c.muon_learning_rate,
            weight_decay=c.weight_decay, betas=c.betas,
        )  # fmt: skip

    def _open(self, out: Path, resume: bool) -> None:
        """Begin the run's folder, or take up its latest checkpoint."""
        if (out / "log.jsonl").exists() and not resume:
            raise ConfigError(f"{out} already holds a run: give --resume to go on with it, or another --out")
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; --out must be a folder")
        with _alone(out):
            path = checkpoint.latest(out) if resume else None
            if path is not None:
                self._check_same_run(path)
                state = checkpoint.load(path, self.model, self.optimizers)
                self.step = state["step"]
                self.batches.seek(state["cursor"])
                self.saved = self.step
                log.info("resuming from %s", path)
                if differ := checkpoint.differences(state, self.device):
                    log.warning(
                        "the checkpoint was made with %s: the run goes on, but its last digits are not those of a run "
                        "that was never stopped", "; ".join(differ),
                    )  # fmt: skip
            elif resume:
                log.info("no checkpoint in %s yet: beginning", out)
            settings = {
                "data": self.data.directory, "kernels": ops.asked(), "train": self.config, "model": self.model.config,
            }  # fmt: skip
            files.write(out / "config.toml", config_.to_toml(settings))
            self.log = RunLog(out / "log.jsonl", self.step + 1)

    def _check_same_run(self, path: Path) -> None:
        state = checkpoint.read_state(path)
        model = files.read_json(path / "config.json")
        model.pop("model_type", None)
        pairs = (
            (config_.to_dict(self.config), state["config"]),
            (config_.to_dict(self.model.config), model),
            ({"data": self._identity()}, {"data": state["data"]}),
        )
        for mine, theirs in pairs:
            for key in sorted(mine.keys() | theirs.keys()):
                if key not in FREE_ON_RESUME and mine.get(key) != theirs.get(key):
                    raise ConfigError(
                        f"{path} was made with {key}={theirs.get(key)!r}, now it is {mine.get(key)!r}: "
                        "give the same value to resume, or another --out to begin anew"
                    )
        if state["step"] > self.config.steps:
            raise ConfigError(f"{path} is already at step {state['step']}, beyond steps={self.config.steps}")


def seconds_per_step(model: GPT, data: TokenData, config: TrainConfig, *, seconds: float = 4.0) -> float:
    """How long a step takes here: the median of what fits into the last three quarters of ``seconds``.

    A copy of the model is trained; the first steps, in which memory is laid out and the processor speeds up, are not
    counted.
    """
    trial = dataclasses.replace(config, steps=config.copy_steps + 1_000_000)
    trainer = Trainer(copy.deepcopy(model), data, trial, quiet=True)
    trainer.model.train()
    trainer.step = trial.copy_steps
    times, started = [], time.perf_counter()
    while (now := time.perf_counter()) - started < seconds or len(times) < 3:
        trainer._one_step()
        device.synchronize(trainer.device)
        if now - started >= seconds / 4:
            times.append(time.perf_counter() - now)
    return sorted(times)[len(times) // 2]


def _alone(out: Path) -> IO[str]:
    """Nobody else writes to the run's folder while this is open."""
    return files.lock(out / ".lock", f"another training run is writing to {out}")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, or SIGTERM, into a note, so that the step in hand can end; a second one acts at once.

    What was noted is not lost: the handler that was there before gets it in the end.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours to catch
        yield lambda: False
        return
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if noted == [signal.SIGTERM]:
            signal.raise_signal(signal.SIGTERM)
