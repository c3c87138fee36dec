"""``hornbook train``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch
from tyro.conf import OmitArgPrefixes

from .. import device
from ..data import TokenData
from ..errors import ConfigError
from ..model import GPT, PRESETS, GPTConfig
from ..train import TrainConfig, Trainer
from .common import Kernels, note, use


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a GPT on token shards. The same command with --resume goes on after any end.

    The folder of a run holds config.toml: all of its settings, for --config. In such a file, [train] has the options of
    training and [model] what is changed of the model's shape, which begins as ``preset``.
    """

    data: Path
    """the folder that `hornbook prepare` wrote"""
    out: Path
    """the run's folder"""
    preset: Literal[tuple(PRESETS)] = "nano"  # pyright: ignore[reportInvalidTypeForm]
    """the model's shape; --model.* change it"""
    resume: bool = False
    """go on from the newest checkpoint in --out"""
    kernels: Kernels = None
    train: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    model: GPTConfig = field(default_factory=lambda: GPTConfig.preset("nano"))

    @classmethod
    def defaults(cls, values: Mapping[str, Any], argv: list[str]) -> dict[str, Any]:
        """The model's shape before anything is changed: of the preset that the command line names, or else the file."""
        preset = values.get("preset", "nano")
        for word, after in zip_longest(argv, argv[1:]):  # as for every option, the last one counts
            name, _, value = word.partition("=")
            preset = (value or after) if name == "--preset" else preset
        return {"model": GPTConfig.preset(preset)} if isinstance(preset, str) and preset in PRESETS else {}

    def run(self) -> None:
        use(self.kernels)
        device.limit_threads()
        data = TokenData(self.data)
        torch.manual_seed(self.train.seed)
        vocab_size = data.tokenizer.vocab_size
        if self.model.vocab_size not in (vocab_size, GPTConfig.preset(self.preset).vocab_size):
            raise ConfigError(f"vocab_size is that of the data's tokenizer, {vocab_size}: leave out --model.vocab-size")
        model = GPT(replace(self.model, vocab_size=vocab_size))
        trainer = Trainer(model, data, self.train, out=self.out, resume=self.resume)
        note(f"{model.parameter_count():,} parameters, {len(data.train):,} training tokens")
        try:
            last = trainer.fit()
        except KeyboardInterrupt:
            saved = "not saved" if trainer.saved is None else f"saved at step {trainer.saved}"
            note(f"stopped, {saved}, in {self.out}; the same command with --resume goes on")
            raise
        bits = last.get("heldout_bits_per_byte")
        measured = "" if bits is None else f", {bits:.4f} bits per byte of held-out text"
        note(f"{self.out}: {trainer.step} steps{measured}")
