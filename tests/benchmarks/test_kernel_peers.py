"""Other libraries in the benchmark of kernels: each is called with the signature it has, and its results checked."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from hornbook.benchmarks import kernels
from hornbook.benchmarks.operations import OPERATIONS, Case
from hornbook.reference.sample_logits import probabilities

from .test_bench_kernels import case, measured


def function(forward: Any) -> Any:
    """Like an autograd function, which takes arguments by position only; PyTorch finds its gradients."""
    return types.SimpleNamespace(apply=lambda *inputs: forward(None, *inputs))


def stand_ins() -> dict[str, Any]:
    """Where it is → a function with the signature that it has upstream."""
    F = torch.nn.functional

    def liger_softmax(ctx: Any, input_: Any) -> Any:
        return input_.softmax(-1)

    def liger_layer_norm(ctx: Any, X: Any, W: Any, B: Any, eps: Any) -> Any:
        return F.layer_norm(X, W.shape, W, B, eps)

    def liger_rms_norm(
        ctx: Any, X: Any, W: Any, eps: Any, offset: Any = 0.0, casting_mode: Any = "llama", in_place: Any = True,
        row_mode: Any = None,
    ) -> Any:  # fmt: skip
        assert (offset, casting_mode, in_place, row_mode) == (0.0, "llama", False, None)
        return F.rms_norm(X, W.shape, W, eps)

    def liger_add_norm(
        ctx: Any, X: Any, R: Any, W: Any, eps: Any, offset: Any = 0.0, casting_mode: Any = "llama",
        in_place: Any = False,
    ) -> Any:  # fmt: skip
        assert (offset, casting_mode, in_place) == (0.0, "llama", False)
        return F.rms_norm(X + R, W.shape, W, eps), X + R

    def liger_cross_entropy(
        ctx: Any, _input: Any, target: Any, weight: Any, ignore_index: Any = -100, lse_square_scale: Any = 0.0,
        label_smoothing: Any = 0.0, reduction: Any = "mean", softcap: Any = None, return_z_loss: Any = False,
        return_token_accuracy: Any = False, return_predicted_tokens: Any = False,
    ) -> Any:  # fmt: skip
        return F.cross_entropy(_input, target, weight, reduction=reduction), None, None, None

    def liger_linear_cross_entropy(
        ctx: Any, _input: Any, weight: Any, target: Any, bias: Any = None, ce_weight: Any = None,
        ignore_index: Any = -100, lse_square_scale: Any = 0.0, label_smoothing: Any = 0.0, reduction: Any = "mean",
        softcap: Any = None, return_z_loss: Any = False, accum_dtype: Any = None,
    ) -> Any:  # fmt: skip
        return F.cross_entropy(F.linear(_input, weight, bias), target), None, None, None

    def liger_swiglu(ctx: Any, a: Any, b: Any, gate_multiplier: Any = 1.0, down_multiplier: Any = 1.0) -> Any:
        return F.silu(a) * b

    def softmax(x: Any) -> Any:
        return x.softmax(-1)

    def rmsnorm(
        x: Any, weight: Any = None, bias: Any = None, residual: Any = None, out_dtype: Any = None,
        residual_dtype: Any = None, eps: Any = 1e-6, prenorm: Any = False, weight_offset: Any = 0.0,
    ) -> Any:  # fmt: skip
        assert (bias, out_dtype, residual_dtype, eps) == (None, None, None, 1e-5)
        added = x if residual is None else x + residual
        y = F.rms_norm(added, weight.shape, weight, eps)
        return y if residual is None or not prenorm else (y, added)

    def cross_entropy(
        x: Any, target: Any, lse_partial: Any = None, weight: Any = None, ignore_index: Any = -100,
        reduction: Any = "mean", inplace_backward: Any = False,
    ) -> Any:  # fmt: skip
        return F.cross_entropy(x, target)

    def chunked_linear_cross_entropy(
        x: Any, weight: Any, target: Any, chunk_size: Any = 4096, ignore_index: Any = -100, reduction: Any = "mean",
        tuned: Any = True,
    ) -> Any:  # fmt: skip
        return F.cross_entropy(x @ weight.T, target)

    def top_k_top_p_sampling_from_logits(
        logits: Any, top_k: Any, top_p: Any, indices: Any = None, filter_apply_order: Any = "top_k_first",
        deterministic: Any = True, generator: Any = None, check_nan: Any = False, seed: Any = None, offset: Any = None,
    ) -> Any:  # fmt: skip
        assert logits.dtype == torch.float32
        p = probabilities(logits, top_k=top_k, top_p=top_p)
        return p.multinomial(1, generator=generator)[:, 0].int()

    liger = {
        "softmax.LigerSoftmaxFunction": liger_softmax,
        "layer_norm.LigerLayerNormFunction": liger_layer_norm,
        "rms_norm.LigerRMSNormFunction": liger_rms_norm,
        "fused_add_rms_norm.LigerFusedAddRMSNormFunction": liger_add_norm,
        "cross_entropy.LigerCrossEntropyFunction": liger_cross_entropy,
        "fused_linear_cross_entropy.LigerFusedLinearCrossEntropyFunction": liger_linear_cross_entropy,
        "swiglu.LigerSiLUMulFunction": liger_swiglu,
    }
    quack = {
        "softmax.softmax": softmax,
        "rmsnorm.rmsnorm": rmsnorm,
        "cross_entropy.cross_entropy": cross_entropy,
        "linear_cross_entropy.chunked_linear_cross_entropy": chunked_linear_cross_entropy,
    }
    return (
        {f"liger_kernel.ops.{name}": function(forward) for name, forward in liger.items()}
        | {f"quack.{name}": call for name, call in quack.items()}
        | {"flashinfer.sampling.top_k_top_p_sampling_from_logits": top_k_top_p_sampling_from_logits}
    )


SMALL = {"linear_cross_entropy": (7, 33, 5), "sample_logits": (6, 200)}
LIBRARY_CASES = [
    (library, case(operation.name, form, SMALL.get(operation.name, (5, 33)), "bf16"))
    for operation in OPERATIONS.values()
    for library in operation.peers
    for form in operation.forms
    if case(operation.name, form, (5, 33)).has(library)
]


@pytest.mark.parametrize(("library", "c"), LIBRARY_CASES, ids=str)
def test_libraries_are_called_as_they_want(library: str, c: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each peer of each operation, by a stand-in with its signature: it is called, found right, and timed."""
    for name, call in stand_ins().items():
        module, _, attribute = name.rpartition(".")
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{attribute: call}))
    for r in measured(c, library):
        assert list(r["ms"]) == [library]
        assert r["error"][library] < kernels.TOLERANCE["bf16"]
        assert not r["notes"]


def test_each_peer_has_a_case() -> None:
    assert {(library, c.operation.name) for library, c in LIBRARY_CASES} == {
        (library, operation.name) for operation in OPERATIONS.values() for library in operation.peers
    }


def test_a_library_that_draws_what_is_left_out_is_noticed() -> None:
    c = case("sample_logits", "top-k, top-p", (4, 100))
    tensors = c.tensors("cpu")
    tokens = tensors[0].argmax(-1).int()
    assert c.check("FlashInfer", tensors, [], [tokens], []) == 0
    for wrong in (tensors[0][2].argmin(), -1, 100):
        tokens[2] = wrong
        assert c.check("FlashInfer", tensors, [], [tokens], []) == 0.25


def test_each_filter_leaves_something_out() -> None:
    """In nearly all rows, so the row "all filters" times all of them."""
    torch.manual_seed(0)
    c = case("sample_logits", "all filters", (16, 128256), "bf16")
    logits = c.tensors("cpu")[0]
    options: dict[str, Any] = {}
    kept = torch.full((len(logits),), logits.shape[1])
    for name in ("temperature", "top_k", "top_p", "min_p"):
        options[name] = c.options[name]
        fewer = (probabilities(logits, **options) > 0).sum(-1)
        assert name == "temperature" or (fewer < kept).double().mean() > 0.8, name
        kept = fewer
    assert kept.double().mean() > 4
