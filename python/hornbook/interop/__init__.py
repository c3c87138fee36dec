"""Models made elsewhere, and the one function that opens any model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .. import checkpoint
from .. import tokenizer as tokenizer_
from ..errors import CheckpointError, TokenizerError
from ..files import check_sums, read_json
from ..model import GPT
from . import gpt2, llama

if TYPE_CHECKING:
    from ..tokenizer import TokenizerLike

log = logging.getLogger("hornbook")

FOREIGN = {"gpt2": gpt2.read, "llama": llama.read}


def load(path: str | Path) -> tuple[GPT, TokenizerLike | None]:
    """Open a model and its tokenizer.

    Args:
        path: a model directory (what `GPT.save_pretrained` or a checkpoint wrote), a run (its latest checkpoint is
            taken), or a Hugging Face directory of a GPT-2 or Llama model with safetensors.

    Returns:
        The model, on the CPU in fp32, and its tokenizer, or None where the directory has none.

    Raises:
        CheckpointError: naming the file, if one is missing, broken or of an unknown kind.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; give a run or a model directory")
    if (path / "checkpoints").is_dir():
        newest = checkpoint.latest(path)
        if newest is None:
            raise CheckpointError(f"{path}: this run has no checkpoint yet; train it with --resume first")
        path = newest
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: no config.json here, so this is neither a run nor a model directory")
    check_sums(path)
    kind = read_json(path / "config.json").get("model_type")
    if kind == "hornbook":
        model = GPT.from_pretrained(path)
    elif kind in FOREIGN:
        model = FOREIGN[kind](path)
    else:
        raise CheckpointError(f"{path}: models of type {kind!r} are unknown; known: hornbook, {', '.join(FOREIGN)}")
    has_tokenizer = (path / "tokenizer.json").is_file() or (path / "merges.txt").is_file()
    model.eval()
    if not has_tokenizer:
        return model, None
    try:
        return model, tokenizer_.load(path)
    except TokenizerError as error:
        if kind == "hornbook":
            raise
        log.warning("%s: opened without its tokenizer: %s", path, error)
        return model, None
