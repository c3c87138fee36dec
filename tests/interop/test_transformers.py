"""Models of Hugging Face's formats compute and write what `transformers` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook.errors import CheckpointError, HornbookError
from hornbook.files import read_tensors, write_tensors
from hornbook.interop import gpt2
from hornbook.positions import rope_angles, rope_speeds
from hornbook.sample import Sampling, beam_search, sample_ids
from torch import Tensor

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

GPT2: dict[str, Any] = {"vocab_size": 61, "n_positions": 64, "n_layer": 2, "n_head": 4, "n_embd": 32}
LLAMA: dict[str, Any] = {
    "vocab_size": 61, "max_position_embeddings": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "hidden_size": 32, "intermediate_size": 48,
}  # fmt: skip
LLAMA3: dict[str, Any] = {  # speeds that stay, that become slower, and in between
    "rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-wide-mlp": ("gpt2", {"n_inner": 20, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    "gpt2-relu": ("gpt2", {"activation_function": "relu", "n_head": 1}),
    "llama": ("llama", {}),
    "llama-gqa": ("llama", {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama-mqa-tied": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 2}),
    "llama-head-dim": ("llama", {"head_dim": 24, "num_attention_heads": 2, "num_key_value_heads": 2}),
}


def theirs(kind: str, seed: int = 0, std: float = 0.25, **changes: Any) -> Any:
    """A model of transformers with random weights, biases and norms, large enough that logits differ widely."""
    config = (
        transformers.GPT2Config(**GPT2 | changes) if kind == "gpt2" else transformers.LlamaConfig(**LLAMA | changes)
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config) if kind == "gpt2" else transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=std)
            if p.dim() == 1 and name.endswith("weight"):
                p += 1
    return model.eval()


def both(tmp_path: Path, kind: str, seed: int = 0, std: float = 0.25, **changes: Any) -> tuple[Any, hb.GPT]:
    model = theirs(kind, seed, std, **changes)
    model.save_pretrained(tmp_path)
    ours, tokenizer = hb.load(tmp_path)
    assert tokenizer is None
    return model, ours


def some_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def difference(a: Any, b: hb.GPT, ids: Tensor) -> float:
    logits = a(ids).logits
    assert float(logits.std()) > 1  # or agreement would mean little
    return float((logits - b(ids)).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_logits(tmp_path: Path, shape: str) -> None:
    kind, changes = SHAPES[shape]
    a, b = both(tmp_path, kind, **changes)
    assert difference(a, b, some_ids(3, 64)) <= 1e-4
    assert b.parameter_count() == sum(p.numel() for p in a.parameters())
    ids = some_ids(2, 20)
    with torch.no_grad():
        want = a(ids, labels=ids).loss
    assert abs(float(b(ids[:, :-1], ids[:, 1:]).detach()) - float(want)) < 1e-5


def test_logits_at_gpt2s_and_llamas_widths(tmp_path: Path) -> None:
    a, b = both(tmp_path / "a", "gpt2", std=0.05, n_embd=768, n_head=12, n_positions=256, vocab_size=999)
    assert difference(a, b, some_ids(1, 256)) <= 1e-4
    wide = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 2}
    a, b = both(tmp_path / "b", "llama", std=0.05, max_position_embeddings=512, **wide)
    assert difference(a, b, some_ids(1, 512)) <= 1e-4


@pytest.mark.parametrize("shape", ["gpt2", "llama-gqa"])
def test_our_directory_gives_the_same_again(tmp_path: Path, shape: str) -> None:
    kind, changes = SHAPES[shape]
    a, b = both(tmp_path / "theirs", kind, **changes)
    b.save_pretrained(tmp_path / "ours")
    c, _ = hb.load(tmp_path / "ours")
    ids = some_ids(2, 30)
    with torch.no_grad():
        assert torch.equal(b(ids), c(ids))
    assert difference(a, c, ids) <= 1e-4


def test_weights_in_parts(tmp_path: Path) -> None:
    model = theirs("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert difference(model, hb.load(tmp_path)[0], some_ids(2, 9)) <= 1e-4
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=f"{parts[1].name}: no such file"):
        hb.load(tmp_path)


def test_half_precision_files(tmp_path: Path) -> None:
    model = theirs("llama").bfloat16()
    model.save_pretrained(tmp_path)
    ours, _ = hb.load(tmp_path)
    assert ours.embed.weight.dtype == torch.float32
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert difference(again, ours, some_ids(2, 9)) <= 1e-4


def test_files_of_older_versions(tmp_path: Path) -> None:
    """GPT-2's first files have no prefix and hold each layer's causal mask; Llama's named rope_theta at the top."""
    model = theirs("gpt2")
    model.save_pretrained(tmp_path / "gpt2")
    file = tmp_path / "gpt2" / "model.safetensors"
    old = {name.removeprefix("transformer."): t for name, t in read_tensors(file).items()}
    old |= {f"h.{n}.attn.bias": torch.ones(1, 1, 64, 64).tril() for n in range(2)}
    old |= {f"h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(2)}
    old["lm_head.weight"] = old["wte.weight"].clone()
    write_tensors(file, old)
    config = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    del config["activation_function"], config["layer_norm_epsilon"]  # which say what they mean when left out
    (file.parent / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert difference(model, hb.load(tmp_path / "gpt2")[0], some_ids(2, 9)) <= 1e-4

    model = theirs("llama", rope_parameters={"rope_type": "default", "rope_theta": 300.0})
    model.save_pretrained(tmp_path / "llama")
    file = tmp_path / "llama" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["rope_parameters"]
    for extra in ({"rope_scaling": None}, {"rope_scaling": {"rope_type": "default"}}, {}):
        file.write_text(json.dumps(config | {"rope_theta": 300.0} | extra), encoding="utf-8")
        assert difference(model, hb.load(tmp_path / "llama")[0], some_ids(2, 9)) <= 1e-4
    for scaling in ({"type": "linear", "factor": 3.0}, LLAMA3 | {"original_max_position_embeddings": None}):
        scaling = {key: value for key, value in scaling.items() if key != "rope_theta" and value is not None}
        file.write_text(json.dumps(config | {"rope_theta": 50.0, "rope_scaling": scaling}), encoding="utf-8")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
        assert difference(again, hb.load(tmp_path / "llama")[0], some_ids(2, 64)) <= 1e-4
        assert difference(model, hb.load(tmp_path / "llama")[0], some_ids(2, 64)) > 1e-2


@pytest.mark.parametrize("head_dim", [2, 24, 128])
@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "linear", "factor": 3.0}, LLAMA3], ids=["no", "linear", "llama3"]
)
def test_angles_are_the_same_bits(head_dim: int, scaling: dict[str, Any] | None) -> None:
    rope = {"rope_type": "default", **(scaling or {}), "rope_theta": 5e5}
    config = transformers.LlamaConfig(**LLAMA | {"head_dim": head_dim, "rope_parameters": rope})
    theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    assert torch.equal(rope_speeds(head_dim, 5e5, scaling), theirs.inv_freq)
    cos, sin = theirs(torch.zeros(1), torch.arange(500)[None])  # (1, T, head_dim), each speed twice
    got = rope_angles(500, head_dim, 5e5, scaling)
    assert torch.equal(got[0], cos[0, :, : head_dim // 2])
    assert torch.equal(got[1], sin[0, :, : head_dim // 2])


@pytest.mark.parametrize(("afn", "activation"), [("gelu", "gelu_tanh"), ("relu", "relu")])
def test_gpt1s_norms_after_the_sums(afn: str, activation: str) -> None:
    """Nobody reads GPT-1's files here, but its model is one of ours."""
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "n_positions": 64, "n_layer": 2, "n_head": 4, "n_embd": 32, "afn": afn}
    model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**shape)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=0.25)
            if p.dim() == 1 and name.endswith("weight"):
                p += 1
    names = {"tokens_embed.weight": "wte.weight", "positions_embed.weight": "wpe.weight"}
    theirs = {name.removeprefix("transformer."): p for name, p in model.state_dict().items()}
    tensors = gpt2.rename({names.get(name, name): p for name, p in theirs.items()})
    config = hb.GPTConfig(61, 64, 2, 4, d_model=32, norm_position="post", activation=activation)
    assert difference(model, hb.GPT.from_tensors(config, tensors, "GPT-1").eval(), some_ids(3, 64)) <= 1e-4


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        change(config)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return apply


def put(**changes: Any) -> Callable[[Path], None]:
    return edit(lambda config: config.update(changes))


def index(text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    return apply


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "untied": ("gpt2", put(tie_word_embeddings=False), "tie_word_embeddings=False is not supported"),
    "scaled": ("gpt2", put(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    "silu": ("gpt2", put(activation_function="silu"), "activation_function='silu' is not supported"),
    "no width": ("gpt2", edit(lambda c: c.pop("n_embd")), "n_embd missing"),
    "odd heads": ("gpt2", put(n_head=5), "config.json: d_model (32) must be a multiple of n_head (5)"),
    "other width": ("gpt2", put(n_embd=64), "do not fit the configuration"),
    "text": ("gpt2", put(vocab_size="61"), "config.json: vocab_size should be of type int"),
    "dynamic": ("llama", put(rope_scaling={"type": "dynamic", "factor": 2.0}, rope_parameters=None),
                "config.json: RoPE of type 'dynamic' is not supported; only default, linear, llama3 are"),
    "a list": ("llama", put(rope_parameters={"rope_type": ["linear"]}), "RoPE of type ['linear'] is not supported"),
    "no table": ("llama", put(rope_parameters=3), "rope_parameters or rope_scaling is a table, not 3"),
    "llama3": ("llama", put(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5}),
               "config.json: rope_scaling of rope_type 'llama3' needs factor, "),
    "unknown factor": ("llama", put(rope_parameters=LLAMA3 | {"beta_fast": 32}),
                       "config.json: rope_scaling of rope_type 'llama3' has no setting 'beta_fast'"),
    "half turned": ("llama", put(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
                    "partial_rotary_factor=0.5 is not supported"),
    "theta": ("llama", put(rope_parameters={"rope_theta": "5e5"}), "config.json: rope_theta should be of type float"),
    "gelu": ("llama", put(hidden_act="gelu"), "hidden_act='gelu' is not supported"),
    "half biased": ("llama", edit(lambda c: (c.pop("mlp_bias", 0), c.update(attention_bias=True))), "mlp_bias=False"),
    "no layers": ("llama", edit(lambda c: c.pop("num_hidden_layers")), "num_hidden_layers missing"),
    "kv heads": ("llama", put(num_key_value_heads=3), "config.json: n_head (4) must be a multiple"),
    "no weights": ("llama", lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "empty index": ("llama", index("{}"), "model.safetensors.index.json: no weight_map"),
    "broken index": ("llama", index("{"), "model.safetensors.index.json: cannot be read"),
    "unknown": ("llama", put(model_type="mistral"), "models of type 'mistral' are unknown"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    kind, damage, message = REFUSED[name]
    theirs(kind).save_pretrained(tmp_path)
    hb.load(tmp_path)
    damage(tmp_path)
    with pytest.raises(HornbookError) as raised:
        hb.load(tmp_path)
    line = str(raised.value)
    assert message in line
    assert str(tmp_path) in line
    assert "\n" not in line


def test_llama_with_biases_everywhere(tmp_path: Path) -> None:
    a, b = both(tmp_path, "llama", attention_bias=True, mlp_bias=True)
    assert difference(a, b, some_ids(2, 12)) <= 1e-4


# Writing. A small vocabulary, so that the end-of-text token is often among the likeliest.

EOT = 3
WRITERS = {
    "gpt2": ("gpt2", {"vocab_size": 11}),
    "llama": ("llama", {"vocab_size": 11, "num_key_value_heads": 2}),
}


def generated(model: Any, ids: list[int], eot: int | None, **options: Any) -> list[int]:
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64), do_sample=False,
        eos_token_id=eot, pad_token_id=0, **options,
    )  # fmt: skip
    new = out[0, len(ids) :].tolist()
    return new[: new.index(eot) + 1] if eot in new else new


def greedy(model: hb.GPT, ids: list[int], eot: int | None, n: int, penalty: float) -> list[int]:
    new: list[int] = []
    how = Sampling(temperature=0, repetition_penalty=penalty)
    for token in sample_ids(model, torch.tensor([ids]), how, max_new_tokens=n):
        new.append(int(token))
        if new[-1] == eot:
            break
    return new


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_greedy_writing(tmp_path: Path, family: str, penalty: float) -> None:
    kind, changes = WRITERS[family]
    ended = 0
    for seed in range(4):
        a, b = both(tmp_path / str(seed), kind, seed, **changes)
        for eot in (EOT, None):
            for start in range(3):
                ids = [start, 5, 7][: 1 + seed % 3]
                want = generated(a, ids, eot, max_new_tokens=20, repetition_penalty=penalty)
                assert greedy(b, ids, eot, 20, penalty) == want
                ended += len(want) < 20
    assert 0 < ended < 24  # some reached the end of the text, some did not


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_beams(tmp_path: Path, family: str, num_beams: int) -> None:
    kind, changes = WRITERS[family]
    ended, unlike_greedy, cases = 0, 0, 0
    for seed in range(5):
        a, b = both(tmp_path / str(seed), kind, seed, std=0.2, **changes)
        for eot, penalty, length in ((EOT, 1.0, 12), (EOT, 1.4, 12), (EOT, 0.8, 5), (None, 1.0, 8), (EOT, 1.0, 1)):
            ids = [1, 4, 9][: 1 + seed % 3]
            want = generated(
                a, ids, eot, max_new_tokens=length, num_beams=num_beams, repetition_penalty=penalty,
                early_stopping=False, length_penalty=1.0,
            )  # fmt: skip
            got = beam_search(
                b, ids, num_beams=num_beams, max_new_tokens=length, eot_id=eot, repetition_penalty=penalty
            )
            assert got == want
            cases += 1
            ended += len(want) < length
            unlike_greedy += want != greedy(b, ids, eot, length, penalty)
    assert 0 < ended < cases
    assert unlike_greedy > 0


def test_beams_with_a_length_penalty(tmp_path: Path) -> None:
    lengths = set()
    for seed in range(5):
        a, b = both(tmp_path / str(seed), "llama", seed, std=0.2, vocab_size=11)
        for length_penalty in (-2.0, 0.0, 0.5, 3.0):
            want = generated(
                a, [1, 2], EOT, max_new_tokens=10, num_beams=3, length_penalty=length_penalty, early_stopping=False
            )
            options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 10, "eot_id": EOT}
            assert beam_search(b, [1, 2], length_penalty=length_penalty, **options) == want
            lengths.add(len(want))
    assert len(lengths) > 2
