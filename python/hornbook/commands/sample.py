"""``hornbook sample``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..errors import ConfigError
from .common import Kernels, open_tokenizer, use


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Continue a text with a trained model; the new text goes to stdout as it is written."""

    model: Positional[Path]
    """a run or a model directory"""
    prompt: str = ""
    """what to continue; empty for a new document"""
    tokenizer: str | None = None
    """if the model directory has none"""
    max_new_tokens: int = 200
    """the most to write"""
    temperature: float = 1.0
    """0 for the likeliest token each time, 1 for the model's own distribution"""
    top_k: int = 0
    """draw from the k likeliest tokens only; 0 for all"""
    top_p: float = 1.0
    """draw from the likeliest tokens whose probabilities sum to p"""
    min_p: float = 0.0
    """leave out tokens less than min_p times as likely as the likeliest"""
    repetition_penalty: float = 1.0
    """above 1 makes tokens that occurred less likely"""
    num_beams: int = 1
    """above 1, search for the likeliest text instead of drawing one"""
    stop: tuple[str, ...] = ()
    """texts that end the writing"""
    seed: int | None = None
    """the same seed writes the same text"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    kernels: Kernels = None

    def run(self) -> None:
        use(self.kernels)
        from .. import device
        from ..interop import load
        from ..sample import stream

        gpt, tok = load(self.model)
        gpt.to(device.pick(self.device))
        if self.tokenizer is not None:
            tok = open_tokenizer(self.tokenizer)
        if tok is None:
            raise ConfigError(f"{self.model} has no tokenizer: name one with --tokenizer")
        how: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams", "stop",
                "seed",
            )
        }  # fmt: skip
        for piece in stream(gpt, tok, self.prompt, **how):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
