"""Who computes an operation, and how that is chosen."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import hornbook as hb
import pytest
import torch
from hornbook import native, ops
from hornbook.errors import ConfigError
from hornbook.ops import kernels_in_use, parse, use, use_kernels

interpreted = pytest.mark.skipif(not os.environ.get("TRITON_INTERPRET"), reason="kernels run on the GPU here")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with use_kernels("auto"):
        yield


def everywhere(implementation: str, **others: str) -> dict[str, str]:
    return dict.fromkeys(ops.OPERATIONS, implementation) | others


def test_public_names() -> None:
    assert hb.use_kernels is use_kernels
    assert hb.kernels_in_use is kernels_in_use


def test_every_operation_has_both() -> None:
    for op in ops.OPERATIONS:
        with use_kernels("reference"):
            assert ops._decided[op][0] is getattr(importlib.import_module(f"hornbook.reference.{op}"), op)
        with use_kernels("torch"):
            assert ops._decided[op][0] is getattr(native, op)


@interpreted
def test_kernels_are_what_is_called() -> None:
    from hornbook.kernels import library

    q = torch.randn(1, 4, 2, 16)
    for choice, op, call, kernel in (
        ("attention", "fused", lambda: ops.attention(q, q, q), "attention_forward"),
        ("attention", "composed", lambda: ops.attention(q, q, q), "softmax_rows"),
        ("softmax", "fused", lambda: ops.softmax(q), "softmax_rows"),
        ("layer_norm", "fused", lambda: ops.layer_norm(q), "layer_norm_rows"),
        ("rms_norm", "fused", lambda: ops.rms_norm(q), "rms_norm_rows"),
        ("add_norm", "fused", lambda: ops.add_norm(q, q)[0], "add_norm_rows"),
        ("gelu", "fused", lambda: ops.gelu(q), "pointwise_forward"),
        ("relu2", "fused", lambda: ops.relu2(q), "pointwise_forward"),
        ("swiglu", "fused", lambda: ops.swiglu(q), "swiglu_forward"),
        ("rope", "fused", lambda: ops.rope(q, q[0, :, 0, :8], q[0, :, 0, 8:]), "rope_forward"),
    ):
        before = library.launches[kernel]
        with use_kernels("reference", **{choice: op}):
            got = call()
        assert library.launches[kernel] == before + 1
        with use_kernels("reference"):
            torch.testing.assert_close(got, call())


def test_every_file_of_kernels_is_known() -> None:
    import hornbook.kernels

    files = {path.stem for folder in hornbook.kernels.__path__ for path in Path(folder).glob("*.py")}
    shared = {"__init__", "interpreter", "library", "functions", "norms", "norms_backward", "pointwise"}
    of_attention = {name for name in files if name.startswith("attention_")}
    assert of_attention >= {"attention_backward", "attention_table", "attention_tiles"}
    assert files - shared - of_attention == set(ops.OPERATIONS)


@interpreted
def test_a_call_outside_the_contract(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where a kernel was asked for it is an error that gives the reason; auto falls back, and says so once."""
    q = torch.randn(1, 4, 2, 12)
    for which in ("fused", "composed"):
        with use_kernels(attention=which), pytest.raises(ConfigError, match="fp32, fp16 and bf16, not float64"):
            ops.attention(q.double().repeat(1, 1, 1, 2), q.double().repeat(1, 1, 1, 2), q.double().repeat(1, 1, 1, 2))
    with use_kernels("fused"), pytest.raises(ConfigError, match=r"head_dim is 12; .* choose attention=torch"):
        ops.attention(q, q, q)
    with use_kernels("fused"):
        function, refusal, _ = ops._decided["attention"]

    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setitem(ops._decided, "attention", (function, refusal, True))
    ops._say_once.cache_clear()
    with caplog.at_level("INFO", "hornbook"):
        for _ in range(3):
            got = ops.attention(q.as_subclass(OnCuda), q, q)
    assert torch.equal(got.as_subclass(torch.Tensor), native.attention(q, q, q))
    assert [r.getMessage() for r in caplog.records if "head_dim is 12" in r.getMessage()] == [
        "kernels: a call of attention runs torch: head_dim is 12; the kernel takes 16 to 256, in steps of 8"
    ]


def test_auto_leaves_what_is_on_the_cpu_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(*args: object, **options: object) -> None:
        raise AssertionError("a kernel was called for a tensor in the CPU's memory")

    monkeypatch.setitem(ops._decided, "softmax", (kernel, lambda *a, **o: None, True))
    assert torch.equal(ops.softmax(torch.zeros(1, 4)), torch.full((1, 4), 0.25))


@interpreted
@pytest.mark.parametrize("choice", ["torch", "reference", "fused", "attention=composed"])
def test_a_model_compiles_as_a_whole(choice: str) -> None:
    torch.manual_seed(0)
    model = hb.GPT(hb.GPTConfig(vocab_size=64, context_length=16, n_layer=1, n_head=2, d_model=32))
    ids = torch.randint(64, (2, 16))
    use(choice)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(ids, ids).backward()
    mine = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model(ids, ids).backward()
    for a, p in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_machines_without_triton_or_with_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    ops.kernels_problem.cache_clear()
    with pytest.raises(ConfigError, match="triton is not installed"):
        use_kernels("fused")
    use_kernels("auto")  # this is no error
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    ops.kernels_problem.cache_clear()
    with pytest.raises(ConfigError, match=r"an old GPU has compute capability 7.5, and kernels need 8.0"):
        use_kernels(softmax="fused")
    use_kernels("auto")
    assert kernels_in_use() == everywhere("torch")
    assert "compute capability 7.5" in ops.reason("softmax")
    monkeypatch.undo()
    ops.kernels_problem.cache_clear()


def test_auto_runs_torch_here() -> None:
    use_kernels("auto")
    assert kernels_in_use() == everywhere("torch")


def test_a_plain_call_stays() -> None:
    use_kernels("reference")
    assert kernels_in_use() == everywhere("reference")
    use_kernels(attention="torch")
    assert kernels_in_use() == everywhere("reference", attention="torch")
    use_kernels("torch")  # for everything: what was chosen singly is forgotten
    assert kernels_in_use() == everywhere("torch")


def test_with_restores() -> None:
    use_kernels("torch", gelu="reference")
    before = kernels_in_use()
    with use_kernels("reference", attention="torch"):
        assert kernels_in_use() == everywhere("reference", attention="torch")
        with use_kernels(rope="torch"):
            assert kernels_in_use() == everywhere("reference", attention="torch", rope="torch")
        assert kernels_in_use() == everywhere("reference", attention="torch")
    assert kernels_in_use() == before


def fail() -> None:
    raise KeyError


def test_with_restores_after_an_error() -> None:
    use_kernels("torch")
    with pytest.raises(KeyError), use_kernels("reference"):
        fail()
    assert kernels_in_use() == everywhere("torch")


def test_the_choice_decides_who_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def spy(op: str, implementation: str) -> object:
        return types.SimpleNamespace(**{op: lambda *a, **o: called.append((op, implementation))})

    monkeypatch.setattr(ops, "_module", spy)
    with use_kernels("reference", gelu="torch"):
        ops.gelu(torch.ones(1))
        ops.relu2(torch.ones(1))
    ops.relu2(torch.ones(1))
    assert called == [("gelu", "torch"), ("relu2", "reference"), ("relu2", "torch")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: use_kernels("torhc"), r"no implementation 'torhc'; did you mean 'torch'\?"),
        (lambda: use_kernels(attention="referense"), r"no implementation 'referense'; did you mean 'reference'\?"),
        (lambda: use_kernels(atention="torch"), r"no operation 'atention'; did you mean 'attention'\?"),
        (lambda: use_kernels("zzz"), "no implementation 'zzz'; known: auto, composed, fused, reference, torch"),
        (lambda: use("reference,softmaxx=torch"), r"no operation 'softmaxx'; did you mean 'softmax'\?"),
        (lambda: use_kernels("composed"), "composed is a way to compute attention only"),
        (lambda: use_kernels(softmax="composed"), "composed is a way to compute attention only"),
        (lambda: parse("torch=attention"), "no operation 'torch'"),
        (lambda: parse("attention="), "no implementation ''"),
        (lambda: parse("attention:torch"), "no implementation 'attention:torch'"),
    ],
)
def test_unknown_names(call, message: str) -> None:
    use_kernels("reference", gelu="torch")
    with pytest.raises(ConfigError, match=message):
        call()
    assert kernels_in_use() == everywhere("reference", gelu="torch")


@interpreted
def test_what_runs_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ops._say_once.cache_clear()
    with caplog.at_level("INFO", "hornbook"), use_kernels("fused", gelu="torch"):
        ops.gelu(torch.ones(1))
        ops.decide()
        lines = [r.getMessage() for r in caplog.records]
    assert lines.count("kernels: fused (torch: gelu); asked for: fused,gelu=torch") == 1
    assert sum("interpreter" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("reference", {"": "reference"}),
        ("torch,attention=reference", {"": "torch", "attention": "reference"}),
        (" torch , attention = reference ,", {"": "torch", "attention": "reference"}),
        ("rope=reference", {"rope": "reference"}),
        ("", {}),
    ],
)
def test_parse(text: str, choice: dict[str, str]) -> None:
    assert parse(text) == choice


def test_use_is_use_kernels_for_text() -> None:
    use("reference,attention=torch")
    assert kernels_in_use() == everywhere("reference", attention="torch")
    use("rope=torch")
    assert kernels_in_use() == everywhere("reference", attention="torch", rope="torch")


def test_environment() -> None:
    code = "import hornbook as hb; k = hb.kernels_in_use(); print(k['attention'], k['gelu'])"
    environment = {**os.environ, "HORNBOOK_KERNELS": "reference,gelu=torch"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["reference", "torch"]


def test_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_state", None)
    monkeypatch.setenv("HORNBOOK_KERNELS", "referense")
    with pytest.raises(ConfigError, match="did you mean 'reference'"):
        kernels_in_use()
    monkeypatch.setenv("HORNBOOK_KERNELS", "torch,rope=reference")
    assert kernels_in_use() == everywhere("torch", rope="reference")


def test_one_object_can_be_entered_twice() -> None:
    reference = use_kernels("reference")
    for _ in range(2):
        with reference:
            assert kernels_in_use()["gelu"] == "reference"
        assert kernels_in_use()["gelu"] == "torch"


def test_one_object_can_be_entered_inside_itself() -> None:
    use_kernels("torch")
    reference = use_kernels("reference")
    with reference:
        with reference:
            assert kernels_in_use()["gelu"] == "reference"
        assert kernels_in_use()["gelu"] == "reference"
    assert kernels_in_use()["gelu"] == "torch"


def test_what_was_chosen_before_a_with_comes_back() -> None:
    reference = use_kernels("reference")
    use_kernels("torch")
    with reference:
        assert kernels_in_use()["gelu"] == "reference"
    assert kernels_in_use()["gelu"] == "torch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=torch", "names no operation"),
        ("torch,reference", "twice"),
        ("rope=torch,rope=reference", "chooses rope twice"),
    ],
)
def test_texts_that_say_nothing_clear(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_torch_compiles_for_changing_lengths() -> None:
    """One graph for all T_q and T_k: none of the conditions on lengths may end up inside it."""

    def call(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return native.attention(q, k, k)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for T_q, T_k in ((5, 5), (9, 9), (3, 8)):
        q, k = torch.randn(1, T_q, 2, 16), torch.randn(1, T_k, 2, 16)
        torch.testing.assert_close(compiled(q, k), call(q, k))


@pytest.mark.parametrize("causal", [True, False])
def test_a_negative_scale(causal: bool) -> None:
    from hornbook.reference.attention import attention

    q, k = torch.randn(2, 7, 2, 16), torch.randn(2, 7, 2, 16)
    want = attention(q, k, k, causal=causal, scale=-0.7)
    torch.testing.assert_close(native.attention(q, k, k, causal=causal, scale=-0.7), want)


@interpreted
def test_composed_attention() -> None:
    from hornbook import composed
    from hornbook.reference.attention import attention

    q, k = (60 * torch.randn(2, 9, h, 128) for h in (4, 2))
    half = composed.attention(q.half(), k.half(), k.half())
    assert half.isfinite().all(), "unscaled scores are too large for fp16"
    want = attention(q.half().double(), k.half().double(), k.half().double())
    assert (half - want).abs().max() <= 0.02 * want.abs().max()
    want = attention(q / 60, k / 60, k / 60, scale=-0.3)
    torch.testing.assert_close(composed.attention(q / 60, k / 60, k / 60, scale=-0.3), want)
    with use_kernels(attention="composed"):
        for bad, message in (
            ({"k": k[:, :, :0], "v": k[:, :, :0]}, "cannot share"),
            ({"k": k.half(), "v": k.half()}, "one dtype"),
            ({"scale": float("nan")}, "finite"),
        ):
            with pytest.raises(ConfigError, match=message):
                ops.attention(**({"q": q, "k": k, "v": k} | bad))


@interpreted
def test_threads_may_run_kernels() -> None:
    from concurrent.futures import ThreadPoolExecutor

    x = torch.randn(4, 50)
    with use_kernels("fused"), ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: ops.softmax(x), range(16)):
            torch.testing.assert_close(y, x.softmax(-1))
