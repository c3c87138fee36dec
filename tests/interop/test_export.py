"""What is written for transformers computes there what it computes here, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook.errors import ConfigError
from hornbook.files import read_tensors
from hornbook.interop import export
from torch import Tensor

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SMALL: dict[str, Any] = {"vocab_size": 61, "context_length": 64, "n_layer": 2, "n_head": 4, "d_model": 32}
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-padded": ("gpt2", {"padded_vocab_size": 64, "activation": "relu", "d_ff": 20, "norm_eps": 1e-3}),
    "gpt2-exact-gelu": ("gpt2", {"activation": "gelu", "qkv_bias": True, "n_kv_head": 4, "head_dim": 8}),
    "llama": ("llama", LLAMA),
    "llama-linear": (
        "llama", LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 3}, "n_kv_head": 1, "norm_eps": 1e-3}),
    "llama-llama3": (
        "llama", LLAMA | {"rope_scaling": LLAMA3, "rope_theta": 50, "tie_embeddings": False, "padded_vocab_size": 128}),
    "llama-biased": ("llama", LLAMA | {"bias": True, "head_dim": 12, "n_kv_head": 2, "d_ff": 40}),
}  # fmt: skip


def build(**fields: Any) -> hb.GPT:
    torch.manual_seed(0)
    model = hb.GPT(hb.GPTConfig(**SMALL | fields)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=0.25)
            if name.endswith("norm.weight"):
                p += 1
    return model


def some_ids(*shape: int) -> Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same(tmp_path: Path, shape: str) -> None:
    kind, fields = SHAPES[shape]
    model = build(**fields)
    assert export(model, tmp_path / "new" / "folder") == kind
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "new" / "folder", output_loading_info=True
    )
    assert not any(report.values()), report  # no tensor missing, left over, or of another shape
    ids = some_ids(3, 64)
    with torch.no_grad():
        logits = theirs(ids).logits
        assert float(logits.std()) > 1  # or agreement would mean little
        assert logits.shape == (3, 64, 61)
        assert float((logits - model(ids)).abs().max()) <= 1e-4

    again, tokenizer = hb.load(tmp_path / "new" / "folder")
    assert tokenizer is None
    with torch.no_grad():
        torch.testing.assert_close(again(ids), model(ids), atol=1e-5, rtol=1e-5)
    c = again.config
    assert (c.vocab_rows, c.rope_scaling, c.kv_heads, c.ff_size) == (
        61, model.config.rope_scaling, model.config.kv_heads, model.config.ff_size
    )  # fmt: skip


def test_what_is_written(tmp_path: Path) -> None:
    """The ids that end a text are the tokenizer's, or nobody's: not those of the models that others published."""
    tok = hb.Tokenizer.train(["so much depends upon a red wheel barrow"], vocab_size=258)
    model = build(vocab_size=tok.vocab_size, padded_vocab_size=320, dropout=0.25)
    export(model, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["vocab_size"]) == (None, None, 258)
    assert (config["embd_pdrop"], config["resid_pdrop"], config["attn_pdrop"]) == (0.25, 0.25, 0.0)
    assert read_tensors(tmp_path / "a" / "model.safetensors")["transformer.wte.weight"].shape == (258, 32)

    export(model, tmp_path / "b", tok)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert (theirs.generation_config.eos_token_id, theirs.config.eos_token_id) == (tok.eot_id, tok.eot_id)
    again, tokenizer = hb.load(tmp_path / "b")
    assert tokenizer is not None
    assert tokenizer.encode("wheel") == tok.encode("wheel")
    assert torch.equal(again.embed.weight, model.embed.weight[:258])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"norm_position": "post"},
            "for gpt2, norm_position is 'post', not 'pre'; for llama, position is 'learned', not",
        ),
        (LLAMA | {"qk_norm": True}, "for llama, qk_norm is True, not False"),
        (LLAMA | {"qkv_bias": True}, "for llama, qkv_bias is True, not None or False"),
        (
            LLAMA | {"logit_softcap": 30.0, "attention_window": 9},
            "attention_window is 9, not None, logit_softcap is 30.0",
        ),
        ({"position": "sinusoidal"}, "for gpt2, position is 'sinusoidal', not 'learned';"),
        ({"position": "alibi", "n_kv_head": 2}, "for gpt2, position is 'alibi', not 'learned', kv_heads is 2, not 4;"),
        ({"head_dim": 4}, "for gpt2, head_size is 4, not 8"),
        ({"tie_embeddings": False}, "for gpt2, tie_embeddings is False, not True;"),
    ],
)
def test_models_of_no_format(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"this model has no format in transformers: for gpt2") as raised:
        export(build(**fields), tmp_path / "out")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
