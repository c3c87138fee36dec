"""What ``hornbook demo`` teaches a model, over several seeds.

    python -m hornbook.benchmarks.demo --minutes 2 5 --seeds 0 1 2 --out results.json

For each number of minutes and each seed: the demo's own steps (corpus, tokenizer, marks, speed probe, training,
measurement), then the table of means. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "100000")  # as the command does

import torch

from .. import demo
from ..train import Trainer


def one(minutes: float, seed: int, steps: int | None) -> dict[str, Any]:
    """A demo without its words."""
    started = time.monotonic()
    world = demo.make_world(seed)
    model = demo.new_model(seed)
    steps = steps or demo.steps_in(minutes, model, world, seed)
    trainer = Trainer(model, world.data, demo.recipe(steps, seed), tokenizer=world.tokenizer, quiet=True)
    began = time.monotonic()
    trainer.fit()
    training = time.monotonic() - began
    result = demo.measure(model, world, trainer, seed)
    return {
        "minutes": minutes,
        "seed": seed,
        "steps": steps,
        "training_seconds": training,
        "seconds": time.monotonic() - started,
        **result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 5.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of what the speed probe says")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("minutes seed steps     s   bits/byte  trigram  generator  below   hero  kind  home object moral")
    runs = []
    for minutes in options.minutes:
        for seed in options.seeds:
            r = one(minutes, seed, options.steps)
            runs.append(r)
            print(_row(f"{minutes:7g} {seed:4}", [r]), flush=True)
        print(_row(f"{minutes:7g} mean", [r for r in runs if r["minutes"] == minutes]), flush=True)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if options.out:
        options.out.write_text(json.dumps({**machine, "runs": runs}, indent=1) + "\n")
    print(json.dumps({**machine, "runs": len(runs), "below_trigram": mean(r["below_trigram"] for r in runs)}))


def _row(title: str, runs: list[dict[str, Any]]) -> str:
    def m(name: str) -> float:
        return mean(r[name] for r in runs)

    judged = "  ".join(
        f"{mean(r['judged'][n] for r in runs):4.0%}"
        for n in ("keeps_hero", "keeps_kind", "keeps_home", "keeps_object", "complete")
    )
    return (
        f"{title} {m('steps'):5.0f} {m('seconds'):5.0f} {m('bits_per_byte'):11.4f} {m('trigram_bits_per_byte'):8.4f} "
        f"{m('generator_bits_per_byte'):10.4f} {m('below_trigram'):6.1%}  {judged}"
    )


if __name__ == "__main__":
    main()
