"""Other libraries in the benchmark of attention: each is called with the signature it has, and its results checked."""

from __future__ import annotations

import sys
import types
from itertools import pairwise
from typing import Any

import pytest
import torch
from hornbook.benchmarks import attention_peers
from hornbook.benchmarks.attention_cases import PAGES, block_table, decode_error, lengths
from hornbook.benchmarks.kernels import TOLERANCE
from hornbook.benchmarks.operations import Case
from hornbook.benchmarks.operations.base import distance
from hornbook.reference.attention import attention as reference

from .test_bench_attention import SMALL, case, decode, measured

BF16 = [Case(c.operation, c.form, c.shape, "bf16") for c in SMALL]


def options(causal: bool, window: Any, none: Any, softcap: float) -> dict[str, Any]:
    """Of the reference, from flash-attn's."""
    assert window[1] in (0, none)
    assert causal or window == (none, none)
    wide = None if window[0] == none else window[0] + 1
    return {"causal": causal, "window": wide, "softcap": softcap or None}


def second(q: Any, k: Any, v: Any, dropout_p: Any = 0.0, softmax_scale: Any = None, causal: Any = False,
           window_size: Any = (-1, -1), softcap: Any = 0.0, alibi_slopes: Any = None, deterministic: Any = False,
           return_attn_probs: Any = False) -> Any:  # fmt: skip
    assert (dropout_p, softmax_scale, alibi_slopes, return_attn_probs) == (0.0, None, None, False)
    return reference(q, k, v, **options(causal, window_size, -1, softcap))


def second_packed(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
                  dropout_p: Any = 0.0, softmax_scale: Any = None, causal: Any = False, window_size: Any = (-1, -1),
                  softcap: Any = 0.0, alibi_slopes: Any = None, deterministic: Any = False,
                  return_attn_probs: Any = False, block_table: Any = None) -> Any:  # fmt: skip
    assert q.dim() == 3
    assert cu_seqlens_q.dtype == torch.int32
    assert max_seqlen_q == max_seqlen_k == cu_seqlens_q.diff().max()
    return reference(q, k, v, cu_seqlens=cu_seqlens_k, **options(causal, window_size, -1, softcap))


def third(q: Any, k: Any, v: Any, softmax_scale: Any = None, causal: Any = False, qv: Any = None, q_descale: Any = None,
          k_descale: Any = None, v_descale: Any = None, window_size: Any = (-1, -1), attention_chunk: Any = 0,
          softcap: Any = 0.0, num_splits: Any = 1, pack_gqa: Any = None, deterministic: Any = False,
          sm_margin: Any = 0, return_attn_probs: Any = False) -> Any:  # fmt: skip
    assert (softmax_scale, qv, attention_chunk, return_attn_probs) == (None, None, 0, False)
    return reference(q, k, v, **options(causal, window_size, -1, softcap))


def third_packed(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
                 seqused_q: Any = None, seqused_k: Any = None, softmax_scale: Any = None, causal: Any = False,
                 qv: Any = None, q_descale: Any = None, k_descale: Any = None, v_descale: Any = None,
                 window_size: Any = (-1, -1), attention_chunk: Any = 0, softcap: Any = 0.0) -> Any:  # fmt: skip
    return second_packed(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, 0.0, None, causal,
                         window_size, softcap)  # fmt: skip


def fourth(q: Any, k: Any, v: Any, qv: Any = None, gather_kv_indices: Any = None, softmax_scale: Any = None,
           causal: Any = False, window_size: Any = (None, None), learnable_sink: Any = None, softcap: Any = 0.0,
           num_splits: Any = 1, pack_gqa: Any = None, deterministic: Any = False) -> Any:  # fmt: skip
    assert (qv, softmax_scale, learnable_sink) == (None, None, None)
    return reference(q, k, v, **options(causal, window_size, None, softcap)), None


def fourth_packed(q: Any, k: Any, v: Any, qv: Any = None, cu_seqlens_q: Any = None, cu_seqlens_k: Any = None,
                  max_seqlen_q: Any = None, max_seqlen_k: Any = None, min_seqlen_k: Any = None, seqused_q: Any = None,
                  seqused_k: Any = None, gather_kv_indices: Any = None, page_table: Any = None,
                  softmax_scale: Any = None, causal: Any = False, window_size: Any = (None, None)) -> Any:  # fmt: skip
    return reference(q, k, v, cu_seqlens=cu_seqlens_q, causal=causal), None


STAND_INS = {
    "FA2": ("flash_attn", second, second_packed),
    "FA3": ("flash_attn_interface", third, third_packed),
    "FA4": ("flash_attn.cute", fourth, fourth_packed),
}


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("c", BF16, ids=str)
def test_flash_attention_is_called_as_it_wants(name: str, c: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    module, flash, packed = STAND_INS[name]
    found = types.SimpleNamespace(flash_attn_func=flash, flash_attn_varlen_func=packed)
    monkeypatch.setitem(sys.modules, module, found)
    for r in measured(c, name):
        assert list(r["ms"]) == [name], r["notes"]
        assert r["error"][name] < TOLERANCE["bf16"]
        assert not r["notes"]


def test_every_version_has_a_stand_in() -> None:
    assert set(STAND_INS) == set(attention_peers.FLASH)
    assert {name: module for name, (module, *_) in STAND_INS.items()} == attention_peers.FLASH


def test_who_is_not_installed_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there at all, or there without what is asked of it."""
    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    names = ("FA2", "FA3")
    assert attention_peers.found(SMALL[0], names, device="cpu") == ({}, {})
    assert attention_peers.found(decode("", (2, 1, 64, 2, 16, 1)), names, device="cpu") == ({}, {})


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("c", SMALL, ids=str)
def test_flex_attention(c: Case) -> None:
    """Forward only, as it has no way back on a CPU, and not compiled."""
    q, k, v = (t.detach() for t in c.tensors("cpu"))
    y = attention_peers.function("FlexAttention", c, "cpu")(q, k, v)
    given = {key: value for key, value in c.options.items() if key != "documents"}
    if "documents" in c.options:
        given["document_ids"] = attention_peers.document_ids(c, "cpu")
    assert distance(y, reference(q, k, v, **given)) < 1e-6


def test_a_backend_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import attention

    asked = []
    real = attention.sdpa_kernel

    def sdpa_kernel(backend: Any) -> Any:
        asked.append(backend.name)
        return real(attention.SDPBackend.MATH)  # that runs everywhere

    monkeypatch.setattr(attention, "sdpa_kernel", sdpa_kernel)
    for name in attention_peers.SDPA:
        c = case("causal", (1, 8, 2, 16))
        attention_peers.function(name, c, "cpu")(*c.tensors("cpu"))
        c = decode("", (1, 1, 8, 2, 16, 1))
        attention_peers.decode_function(name, c, "cpu")(*c.tensors("cpu"))
    assert asked == [name for name in attention_peers.SDPA for _ in range(2)]


# Decoding


def with_cache(q: Any, k: Any, v: Any, there: Any, table: Any) -> Any:
    """The reference, sequence by sequence."""
    ys = []
    for b, length in enumerate(there.tolist()):
        keys, values = (t[b] if table is None else t[table[b].long()].flatten(0, 1) for t in (k, v))
        ys.append(reference(q[b : b + 1], keys[None, :length], values[None, :length], causal=True))
    return torch.cat(ys)


def second_cache(q: Any, k_cache: Any, v_cache: Any, k: Any = None, v: Any = None, rotary_cos: Any = None,
                 rotary_sin: Any = None, cache_seqlens: Any = None, cache_batch_idx: Any = None,
                 cache_leftpad: Any = None, block_table: Any = None, softmax_scale: Any = None, causal: Any = False,
                 window_size: Any = (-1, -1)) -> Any:  # fmt: skip
    assert cache_seqlens.dtype == torch.int32
    assert block_table is None or (block_table.dtype == torch.int32 and k_cache.shape[1] % 256 == 0)
    assert (k, v, causal) == (None, None, True)
    return with_cache(q, k_cache, v_cache, cache_seqlens, block_table)


def third_cache(q: Any, k_cache: Any, v_cache: Any, k: Any = None, v: Any = None, qv: Any = None,
                rotary_cos: Any = None, rotary_sin: Any = None, cache_seqlens: Any = None, cache_batch_idx: Any = None,
                cache_leftpad: Any = None, page_table: Any = None, cu_seqlens_q: Any = None,
                cu_seqlens_k_new: Any = None, max_seqlen_q: Any = None, rotary_seqlens: Any = None,
                q_descale: Any = None, k_descale: Any = None, v_descale: Any = None, softmax_scale: Any = None,
                causal: Any = False) -> Any:  # fmt: skip
    assert (k, v, causal) == (None, None, True)
    return with_cache(q, k_cache, v_cache, cache_seqlens, page_table), None


class Wrapper:
    """FlashInfer's, for one query token a sequence."""

    tokens = 1

    def __init__(self, float_workspace_buffer: Any, kv_layout: str = "NHD", use_cuda_graph: bool = False,
                 use_tensor_cores: bool = False) -> None:  # fmt: skip
        assert float_workspace_buffer.dtype == torch.uint8
        assert (kv_layout, use_cuda_graph) == ("NHD", False)
        self.tensor_cores = use_tensor_cores

    def plan(self, indptr: Any, indices: Any, last_page_len: Any, num_qo_heads: int, num_kv_heads: int, head_dim: int,
             page_size: int, pos_encoding_mode: str = "NONE", window_left: int = -1, logits_soft_cap: Any = None,
             q_data_type: Any = "float16", kv_data_type: Any = None) -> None:  # fmt: skip
        assert q_data_type == kv_data_type
        self.pages = [indices[a:b] for a, b in pairwise(indptr.tolist())]
        assert indices.dtype == indptr.dtype == torch.int32
        self.there = [(len(p) - 1) * page_size + int(n) for p, n in zip(self.pages, last_page_len, strict=True)]
        self.sizes = (num_qo_heads, num_kv_heads, head_dim, page_size)
        assert self.tokens > 1 or self.tensor_cores == (num_qo_heads >= 4 * num_kv_heads)

    def run(self, q: Any, paged_kv_cache: Any) -> Any:
        H, H_kv, D, page = self.sizes
        assert q.shape == (len(self.pages) * self.tokens, H, D)
        k, v = paged_kv_cache
        assert k.shape[1:] == (page, H_kv, D)
        longest = max(map(len, self.pages))
        table = torch.stack([torch.nn.functional.pad(p, (0, longest - len(p))) for p in self.pages])
        return with_cache(q.view(-1, self.tokens, H, D), k, v, torch.tensor(self.there), table).flatten(0, 1)


class SeveralWrapper(Wrapper):
    """Its other one, for several."""

    def plan(self, qo_indptr: Any, paged_kv_indptr: Any, paged_kv_indices: Any, paged_kv_last_page_len: Any,
             num_qo_heads: int, num_kv_heads: int, head_dim_qk: int, page_size: int, head_dim_vo: Any = None,
             custom_mask: Any = None, packed_custom_mask: Any = None, causal: bool = False, pos_encoding_mode: str =
             "NONE", use_fp16_qk_reduction: bool = False, sm_scale: Any = None, window_left: int = -1,
             logits_soft_cap: Any = None, rope_scale: Any = None, rope_theta: Any = None, q_data_type: Any = "float16",
             kv_data_type: Any = None) -> None:  # fmt: skip
        assert causal
        (self.tokens,) = set(qo_indptr.diff().tolist())
        super().plan(paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads, num_kv_heads,
                     head_dim_qk, page_size, q_data_type=q_data_type, kv_data_type=kv_data_type)  # fmt: skip


def ours(q: Any, k_cache: Any, v_cache: Any, lengths: Any, *, block_table: Any = None, window: Any = None) -> Any:
    return with_cache(q, k_cache, v_cache, lengths, block_table)


DECODING = [decode(form, (3, T_q, 64, 4, 16, 2), "bf16") for form in ("", "ragged", "paged") for T_q in (1, 4)]
DECODING += [decode("paged", (3, 1, 64, 4, 16, 1), "bf16"), decode("pages of 256", (2, 4, 512, 2, 16, 1), "bf16")]


@pytest.mark.parametrize("c", DECODING, ids=str)
def test_decoders_are_called_as_they_want(c: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    wrappers = {"BatchDecodeWithPagedKVCacheWrapper": Wrapper, "BatchPrefillWithPagedKVCacheWrapper": SeveralWrapper}
    modules = {
        "flash_attn": {"flash_attn_with_kvcache": second_cache},
        "flash_attn_interface": {"flash_attn_with_kvcache": third_cache},
        "flashinfer": wrappers,
        "hornbook.kernels.decode_attention": {"decode_attention": ours},
    }
    for module, of in modules.items():
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**of))
    names = ("FLASH_ATTENTION", "MATH", "FlexAttention", "FA2", "FA3", "FlashInfer", "fused")
    (r,) = measured(c, *names)
    # SDPA takes sequences of one length, and flex no pages that are not emulated; on a CPU flash takes no such mask.
    able = {"": names, "ragged": names[2:], "paged": names[4:], "pages of 256": names[3:]}[c.form]
    assert set(able) - {"FLASH_ATTENTION"} <= set(r["ms"]) <= set(able), r["notes"]
    assert set(names) - set(able) <= set(r["notes"])
    assert all(error < TOLERANCE["bf16"] for error in r["error"].values())
    assert r["verdict"] == "ok"


@pytest.mark.parametrize("c", DECODING[:6], ids=str)
def test_a_key_too_few_is_noticed(c: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shortest sequence; or all of the cache, whatever its length; or pages in the order they lie in."""
    tensors = c.tensors("cpu")
    B, T_q, T = c.shape[:3]
    there = torch.tensor(lengths(T, B, c.form))
    table = block_table(B, T, PAGES[c.form], "cpu") if c.form in PAGES else None
    right = with_cache(*tensors, there, table)
    assert decode_error(c, tensors, [], [right], []) < TOLERANCE["bf16"]
    wrong = [with_cache(*tensors, there - torch.tensor([1, 0, 0][:B]), table)]
    if c.form == "ragged":
        wrong.append(with_cache(*tensors, torch.full_like(there, T), table))
    if table is not None:
        wrong.append(with_cache(*tensors, there, torch.arange(table.numel()).view_as(table)))
    if T_q > 1 and not c.form:  # all see all, also what comes after them
        wrong.append(reference(*tensors, causal=False))
    for y in wrong:
        assert decode_error(c, tensors, [], [y], []) > TOLERANCE["bf16"]
