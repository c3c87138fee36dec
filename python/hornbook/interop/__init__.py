"""Models made elsewhere, the one function that opens any model, and the one that writes a model for elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .. import checkpoint
from .. import tokenizer as tokenizer_
from ..errors import CheckpointError, ConfigError, TokenizerError
from ..files import check_sums, read_json, write_json, write_tensors
from ..model import GPT
from . import gpt2, huggingface, llama

if TYPE_CHECKING:
    from ..tokenizer import TokenizerLike

log = logging.getLogger("hornbook")

FOREIGN = {"gpt2": gpt2, "llama": llama}


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
    elif isinstance(kind, str) and kind in FOREIGN:
        model = FOREIGN[kind].read(path)
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


def export(model: GPT, directory: str | Path, tokenizer: TokenizerLike | None = None) -> str:
    """Write a model that ``transformers.AutoModelForCausalLM.from_pretrained(directory)`` opens, to the same logits.

    Rows of padding (`GPTConfig.padded_vocab_size`) are left out, and so is what the format has no place for and only
    training knows, as Llama's has none for dropout.

    Args:
        directory: gets model.safetensors and config.json; with ``tokenizer``, its files and generation_config.json.

    Returns:
        The format, "gpt2" or "llama": that whose architecture the model has.

    Raises:
        ConfigError: for a model of another architecture, saying what is different.
    """
    misfits = {name: foreign.misfits(model.config) for name, foreign in FOREIGN.items()}
    kind = min(misfits, key=lambda name: len(misfits[name]))
    if misfits[kind]:
        why = "; ".join(f"for {name}, {', '.join(reasons)}" for name, reasons in misfits.items())
        raise ConfigError(f"this model has no format in transformers: {why}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # Said even where there is none: transformers would take the end-of-text ids of the published models.
    ends = {f"{end}_token_id": None if tokenizer is None else tokenizer.eot_id for end in ("bos", "eos")}
    write_tensors(directory / "model.safetensors", FOREIGN[kind].their_tensors(huggingface.without_padding(model)))
    write_json(directory / "config.json", FOREIGN[kind].their_config(model.config) | ends)
    if tokenizer is not None:
        tokenizer.save(directory)
        write_json(directory / "generation_config.json", ends)
    return kind
