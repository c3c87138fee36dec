"""``hornbook demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import demo, device
from .common import Kernels, use


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make a corpus, train a tokenizer and a small GPT on it, and let it write stories."""

    minutes: float = 2.0
    """of training; a speed probe turns them into steps"""
    out: Path = Path("runs/demo")
    """where the run is kept; if there is one already, a number is added to the name"""
    seed: int = 0
    """of everything that is drawn"""
    steps: int | None = None
    """train so many steps instead; the same seed and steps give the same model"""
    stories: int = 3
    """how many to write at the end"""
    kernels: Kernels = None

    def run(self) -> None:
        use(self.kernels)
        device.limit_threads()
        demo.run(self.minutes, out=self.out, seed=self.seed, steps=self.steps, stories=self.stories)
