"""``hornbook sample``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..errors import ConfigError
from .common import Kernels, open_tokenizer, use


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Continue a text with a trained model; the new text goes to stdout as it is written.

    With --interactive, prompts are read one after another, and the settings can be changed in between: /help says how.
    """

    model: Positional[Path]
    """a run or a model directory"""
    prompt: str = ""
    """what to continue; empty for a new document"""
    interactive: bool = False
    """read prompts and changes of the settings, line by line, until the end of the input"""
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

        if self.interactive and self.prompt:
            raise ConfigError("--interactive reads its prompts from the input: leave out --prompt")
        gpt, tok = load(self.model)
        gpt.to(device.pick(self.device))
        device.limit_threads()
        if self.tokenizer is not None:
            tok = open_tokenizer(self.tokenizer)
        if tok is None:
            raise ConfigError(f"{self.model} has no tokenizer: name one with --tokenizer")
        if self.interactive:
            from .interactive import Settings, run

            settings = Settings(
                temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p,
                penalty=self.repetition_penalty, seed=self.seed, tokens=self.max_new_tokens,
            )  # fmt: skip
            run(partial(stream, gpt, tok, num_beams=self.num_beams, stop=self.stop), settings)
            return
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
