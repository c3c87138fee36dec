"""Who computes attention: ours, PyTorch's under their own names, and libraries where they are installed.

Each is called as it wants to be, with what it does not have to be asked for at every call, such as masks, made before.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import report
from .attention_cases import PAGES, block_table, lengths
from .kernels import ANY_ORDER, Found, too_large
from .operations import Case, Function
from .operations.attention import sizes, spans
from .timing import FORMATS

SDPA = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
"""of torch.nn.attention.SDPBackend"""
FLEX = "FlexAttention"
FLASH = {"FA2": "flash_attn", "FA3": "flash_attn_interface", "FA4": "flash_attn.cute"}
"""flash-attn's versions and their modules"""
PEERS = (*SDPA, FLEX, *FLASH)
NAMES = ("reference", "composed", *PEERS, "fused", ANY_ORDER)
DECODE_PEERS = (*SDPA, FLEX, "FA2", "FA3", "FlashInfer")
DECODE_NAMES = (*DECODE_PEERS, "fused")
OPTIONAL = (*FLASH, "FlashInfer")


class LacksError(Exception):
    """A peer does not have what a case needs; the message says what, for the report."""


def found(case: Case, names: Sequence[str], free: float = math.inf, *, device: str = "cuda") -> Found:
    """Who can compute a case, and why others cannot; as `kernels.functions`."""
    functions: dict[str, Function] = {}
    notes: dict[str, str] = {}
    make = decode_function if case.operation.name == "decode" else function
    for name in names:
        if (why := too_large(name, case, free)) is not None:
            notes[name] = why
            continue
        try:
            functions[name] = make(name, case, device, free)
        except (ImportError, AttributeError) as error:
            if name not in OPTIONAL:  # whoever has not installed another library need not hear of it
                notes[name] = report.because(error)
        except LacksError as error:
            notes[name] = str(error)
        except Exception as error:  # a library of another version, a mask without the memory for it
            notes[name] = report.because(error)
    return functions, notes


def function(name: str, case: Case, device: str, free: float = math.inf) -> Function:
    """(q, k, v) → (B, T, H, D) with the options of a case.

    Raises:
        LacksError: for one that does not do that, and ImportError or AttributeError for a library that is not there.
    """
    if name in SDPA:
        return _sdpa(name, case, device, free)
    if name == FLEX:
        return _flex(case, device)
    if name in FLASH:
        return _flash(name, case, device)
    where = {"reference": "..reference.attention", "composed": "..composed"}.get(name, "..kernels.attention")
    attention = importlib.import_module(where, __package__).attention
    options = {key: value for key, value in case.options.items() if key != "documents"}
    if "documents" in case.options:
        options["document_ids"] = document_ids(case, device)
    if name == ANY_ORDER:
        options["deterministic"] = False
    return lambda q, k, v, **_: attention(q, k, v, **options)


def document_ids(case: Case, device: str) -> Tensor:
    """(B, T), int32: 0 for the tokens of the first document, and so on."""
    B, T = case.shape[:2]
    counted = [end - start for start, end in spans(T, case.options.get("documents", 1))]
    ids = torch.arange(len(counted), dtype=torch.int32).repeat_interleave(torch.tensor(counted))
    return ids.expand(B, T).contiguous().to(device)


def visible(case: Case, device: str) -> Tensor:
    """(T, T): whether a query (row) sees a key."""
    T = case.shape[1]
    options = case.options
    at = torch.arange(T, device=device)
    behind = at[:, None] - at
    seen = behind >= 0 if options["causal"] else torch.ones_like(behind, dtype=torch.bool)
    if (window := options.get("window")) is not None:
        seen &= behind < window
    if "documents" in options:
        ids = document_ids(case, device)[0]
        seen &= ids[:, None] == ids
    return seen


def _sdpa(name: str, case: Case, device: str, free: float) -> Function:
    """One backend alone: it says so where it cannot. What is not causal or full gets a mask of numbers to add."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    _, T, H, _, H_kv = sizes(case.shape)
    options = case.options
    if "softcap" in options:
        raise LacksError("has no soft-cap")
    mask = None
    if "window" in options or "documents" in options:
        dtype = FORMATS[case.dtype]
        if (needed := T * T * (8 + 1 + dtype.itemsize)) > 0.6 * free:
            raise LacksError(f"not run: making its mask would take about {needed / 1e9:.0f} GB")
        mask = torch.zeros(T, T, device=device, dtype=dtype).masked_fill_(~visible(case, device), -math.inf)[None, None]
    causal = options["causal"] and mask is None
    backend = SDPBackend.__members__[name]

    def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        with sdpa_kernel(backend):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=H != H_kv)
        return y.transpose(1, 2)

    return call


def compiled(f: Function, device: str) -> Function:
    """By torch.compile, where there is a GPU to compile for."""
    return torch.compile(f, fullgraph=True, dynamic=False) if device == "cuda" else f


def _flex(case: Case, device: str) -> Function:
    """Masks as blocks, made before; a soft-cap as a change of scores."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    _, T, H, _, H_kv = sizes(case.shape)
    options = case.options
    causal, window, softcap = options["causal"], options.get("window"), options.get("softcap", 0.0)
    ids = document_ids(case, device)[0] if "documents" in options else None

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        found = i >= j
        if window is not None:
            found = found & (i - j < window)
        return found if ids is None else found & (ids[i] == ids[j])

    def capped(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    mask = create_block_mask(seen, None, None, T, T, device=device) if causal else None
    flex = compiled(flex_attention, device)
    score = capped if softcap else None

    def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return flex(q, k, v, score_mod=score, block_mask=mask, enable_gqa=H != H_kv).transpose(1, 2)

    return call


def _flash(name: str, case: Case, device: str) -> Function:
    """flash-attn, whose versions take the same things; the fourth returns the log-sum-exp besides."""
    library = importlib.import_module(FLASH[name])
    B, T = case.shape[:2]
    options = case.options
    given: dict[str, Any] = {"causal": options["causal"]}
    if "window" in options:
        given["window_size"] = (options["window"] - 1, 0)
    if "softcap" in options:
        given["softcap"] = options["softcap"]
    if "documents" not in options:
        flash = library.flash_attn_func
        return lambda q, k, v, **_: first(flash(q, k, v, **given))
    flash = library.flash_attn_varlen_func
    parts = spans(T, options["documents"])
    ends = [b * T + end for b in range(B) for _, end in parts]
    cu = torch.tensor([0, *ends], dtype=torch.int32, device=device)
    longest = max(end - start for start, end in parts)
    given |= {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": longest, "max_seqlen_k": longest}
    return lambda q, k, v, **_: first(flash(*(t.flatten(0, 1) for t in (q, k, v)), **given)).view(q.shape)


def first(y: Any) -> Tensor:
    """The result, of whoever returns more."""
    return y[0] if isinstance(y, tuple | list) else y


def decode_function(name: str, case: Case, device: str, free: float = math.inf) -> Function:
    """(q, k_cache, v_cache) → (B, T_q, H, D) of a case of decoding; raises as `function`."""
    B, T_q, T, H, _, H_kv = case.shape
    there = torch.tensor(lengths(T, B, case.form), dtype=torch.int32, device=device)
    page = PAGES.get(case.form)
    table = None if page is None else block_table(B, T, page, device)
    if name == "fused":
        decode = importlib.import_module("..kernels.decode_attention", __package__).decode_attention
        return lambda q, k, v, **_: decode(q, k, v, there, block_table=table)
    if name in SDPA:
        if case.form:
            raise LacksError("takes no cache in pages" if table is not None else "takes sequences of one length")
        return _decode_sdpa(name, T_q, T, H != H_kv, device)
    if name == FLEX:
        if table is not None:
            raise LacksError("not asked: its caches in pages are emulated")
        return _decode_flex(case, there, device)
    if name == "FlashInfer":
        return _decode_flashinfer(case, there, table, page or 16, device)
    if name == "FA2" and page is not None and page % 256:
        raise LacksError(f"takes pages of 256 tokens and multiples of it, not of {page}")
    flash = importlib.import_module(FLASH[name]).flash_attn_with_kvcache
    pages = {} if table is None else {{"FA2": "block_table", "FA3": "page_table"}[name]: table}
    return lambda q, k, v, **_: first(flash(q, k, v, cache_seqlens=there, causal=True, **pages))


def _decode_sdpa(name: str, T_q: int, T: int, grouped: bool, device: str) -> Function:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right

    backend = SDPBackend.__members__[name]
    # SDPA's own causal mask is aligned to the first key, ours to the last. One query sees all. Of several, two backends
    # are told so by what PyTorch has for it, which needs no mask in memory (and which flash takes alone).
    mask: Any = None
    if T_q > 1 and name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        mask = causal_lower_right(T_q, T)
    elif T_q > 1:
        mask = torch.ones(T_q, T, dtype=torch.bool, device=device).tril(T - T_q)

    def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)

    return call


def _decode_flex(case: Case, there: Tensor, device: str) -> Function:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    B, T_q, T, H, _, H_kv = case.shape

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= there[b] - T_q + i

    mask = create_block_mask(seen, B, None, T_q, T, device=device)
    flex = compiled(flex_attention, device)

    def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return flex(q, k, v, block_mask=mask, enable_gqa=H != H_kv).transpose(1, 2)

    return call


def _decode_flashinfer(case: Case, there: Tensor, table: Tensor | None, page: int, device: str) -> Function:
    """Planned once, as a program does for all layers of a step. A cache that is not in pages is one in whole pages, one
    after the other. Where heads share keys, on tensor cores, as its authors advise."""
    library: Any = importlib.import_module("flashinfer")
    B, T_q, T, H, D, H_kv = case.shape
    if T % page:
        raise LacksError(f"{T} tokens are no whole pages of {page}")
    if table is None:
        table = torch.arange(B * T // page, dtype=torch.int32, device=device).view(B, -1)
    used = -(-there // page)
    ends = F.pad(used.cumsum(0), (1, 0)).to(torch.int32)
    indices = torch.cat([table[b, :n] for b, n in enumerate(used.tolist())])
    last = (there - 1) % page + 1
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=device)
    of_type = {"q_data_type": FORMATS[case.dtype], "kv_data_type": FORMATS[case.dtype]}
    if T_q == 1:
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=H >= 4 * H_kv)
        wrapper.plan(ends, indices, last, H, H_kv, D, page, **of_type)
    else:
        wrapper = library.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        queries = torch.arange(0, B * T_q + 1, T_q, dtype=torch.int32, device=device)
        wrapper.plan(queries, ends, indices, last, H, H_kv, D, page, causal=True, **of_type)

    def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        k, v = (t.view(-1, page, H_kv, D) for t in (k, v))
        return wrapper.run(q.flatten(0, 1), (k, v)).view(q.shape)

    return call
