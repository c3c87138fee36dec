"""A multiprocessor of sm_90 in Python, on which the functions of a kernel in Gluon run as the Python that they are.

Each partition of `warp_specialize` is a thread; one runs at a time, and at every access to the hardware another may go
on, drawn by chance. Copies (TMA) end at any time after they began; products (wgmma) read their buffers until they are
waited for. A mistake is an error: nobody can go on; a copy into a buffer that is being read or filled; a product of a
buffer that is being filled, or was never; a barrier that more arrive at than it counts; bytes that were not announced;
memory that a copy takes out before a fence made it visible. Numbers are computed, too, so results can be compared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class MachineError(AssertionError):
    """What would hang a GPU, or give wrong numbers by chance."""


class _Stopped(BaseException):
    """Ends the threads of a run that failed."""


class Barrier:
    def __init__(self) -> None:
        self.count = self.pending = self.bytes = self.rounds = 0

    def arrive(self) -> None:
        self.pending -= 1
        if self.pending < 0:
            raise MachineError("more arrive at a barrier than it counts")
        self.turn()

    def turn(self) -> None:
        if self.pending == 0 and self.bytes == 0:
            self.rounds, self.pending = self.rounds + 1, self.count

    def passes(self, parity: int) -> bool:
        return self.rounds & 1 != parity  # the round under way has the other parity: this one is over


class Slot:
    """One buffer in shared memory; new memory is NaN."""

    def __init__(self, shape: list[int], dtype: torch.dtype) -> None:
        self.data = torch.full(shape, float("nan"), dtype=dtype)
        self.copying, self.readers, self.visible, self.turned = False, 0, True, False

    def permute(self, order: tuple[int, int]) -> Slot:
        assert order == (1, 0)
        view = object.__new__(Slot)
        view.__dict__ = self.__dict__ | {"turned": True, "of": self}
        return view

    def store(self, values: Tensor) -> None:
        if self.copying or self.readers:
            raise MachineError("warps write over a buffer that is in use")
        self.data[:] = values
        self.visible = False


class Ring:
    def __init__(self, slots: list[Any], dtype: Any) -> None:
        self.slots, self.dtype = slots, dtype

    def index(self, i: Any) -> Any:
        return self.slots[int(i)]


class Descriptor:
    """(B, H, T, D) read and written in blocks of (1, 1, rows, D), zeros beyond T."""

    def __init__(self, t: Tensor) -> None:
        self.t, self.dtype = t, t.dtype

    def rows(self, at: list[Any], n: int) -> tuple[Tensor, int]:
        b, h, start, d = map(int, at)
        assert d == 0
        assert start >= 0
        part = self.t[b, h, start : start + n]
        return part, len(part)


class Pointer:
    def __init__(self, t: Tensor, at: Any = 0) -> None:
        self.t, self.at = t, at

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.t, self.at + offset)


class Product:
    def __init__(self, result: Tensor, slots: list[Slot]) -> None:
        self.result, self.slots, self.done = result, slots, False


class Machine:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.back = threading.Semaphore(0)
        self.here = threading.local()
        self.copies: list[Callable[[], None]] = []
        self.stopped = False
        self.program = 0

    # threads

    def pause(self, until: Callable[[], bool] | None = None) -> None:
        """Let others go on, and go on when ``until`` holds."""
        me = getattr(self.here, "me", None)
        if me is None:  # before the partitions
            return
        me.until = until
        self.back.release()
        me.go.acquire()
        if self.stopped:
            raise _Stopped

    def specialize(self, parts: list[tuple[Callable[..., None], tuple[Any, ...]]], warps: Any, registers: Any) -> None:
        assert len(warps) == len(registers) == len(parts) - 1
        crew = []
        for function, arguments in parts:
            me = SimpleNamespace(go=threading.Semaphore(0), until=None, over=False, error=None)

            def work(me: Any = me, function: Any = function, arguments: Any = arguments) -> None:
                self.here.me, self.here.products = me, []
                me.go.acquire()
                try:
                    if not self.stopped:
                        function(*arguments)
                        if self.here.products:
                            raise MachineError("a partition ends with a product under way")
                except _Stopped:
                    pass
                except BaseException as error:
                    me.error = error
                me.over = True
                self.back.release()

            me.thread = threading.Thread(target=work, daemon=True)
            me.thread.start()
            crew.append(me)
        error = None
        while error is None and not all(me.over for me in crew):
            able: list[Any] = [me for me in crew if not me.over and (me.until is None or me.until())]
            able += self.copies
            if not able:
                error = MachineError("nobody can go on: each waits for another")
                break
            chosen = self.random.choice(able)
            if chosen in self.copies:
                self.copies.remove(chosen)
                chosen()
            else:
                chosen.go.release()
                self.back.acquire()
                error = chosen.error
        self.stopped = error is not None
        for me in crew:
            if not me.over:
                me.go.release()
            me.thread.join()
        if error is not None:
            raise error
        if self.copies:
            raise MachineError("a copy that nobody waited for")

    # hardware

    def wait(self, barrier: Barrier, phase: Any) -> None:
        self.pause(lambda: barrier.passes(int(phase)))

    def arrive(self, barrier: Barrier) -> None:
        barrier.arrive()
        self.pause()

    def init(self, barrier: Barrier, count: int) -> None:
        barrier.count = barrier.pending = count

    def expect(self, barrier: Barrier, size: int) -> None:
        barrier.bytes += size
        barrier.arrive()
        self.pause()

    def copy_in(self, source: Descriptor, at: list[Any], barrier: Barrier, slot: Slot) -> None:
        if slot.copying or slot.readers:
            raise MachineError("a copy begins into a buffer that is in use")
        slot.copying = True
        slot.data[:] = float("nan")
        found, n = source.rows(at, len(slot.data))

        def end() -> None:
            slot.data[:] = 0
            slot.data[:n] = found
            slot.copying = False
            barrier.bytes -= slot.data.numel() * slot.data.element_size()
            if barrier.bytes < 0:
                raise MachineError("a copy brings bytes that its barrier does not expect")
            barrier.turn()

        self.copies.append(end)
        self.pause()

    def copy_out(self, target: Descriptor, at: list[Any], slot: Slot) -> None:
        if not slot.visible:
            raise MachineError("a copy out of memory that no fence has made visible")
        found, n = target.rows(at, len(slot.data))
        found[:] = slot.data[:n]
        self.pause()

    def multiply(self, a: Any, b: Slot, acc: Tensor, *, use_acc: bool = True, is_async: bool = False) -> Product:
        assert is_async
        slots = [getattr(x, "of", x) for x in (a, b) if isinstance(x, Slot)]
        if any(slot.copying for slot in slots):
            raise MachineError("a product of a buffer that is being filled")
        left, right = (x.data if isinstance(x, Slot) else x for x in (a, b))
        result = left.float() @ (right.T if b.turned else right).float()
        for slot in slots:
            slot.readers += 1
        product = Product(acc + result if use_acc else result, slots)
        self.here.products.append(product)
        self.pause()
        return product

    def multiply_wait(self, left: int, deps: list[Product]) -> Any:
        queue = self.here.products
        while len(queue) > left:
            product = queue.pop(0)
            product.done = True
            for slot in product.slots:
                slot.readers -= 1
        if not all(p.done for p in deps):
            raise MachineError("the result of a product that is under way")
        self.pause()
        return deps[0].result if len(deps) == 1 else tuple(p.result for p in deps)

    # language

    def allocate(self, dtype: torch.dtype, shape: list[int], layout: Any) -> Ring:
        if dtype == torch.int64:
            return Ring([Barrier() for _ in range(shape[0])], dtype)
        self.buffers = [*getattr(self, "buffers", []), *(slots := [Slot(shape[1:], dtype) for _ in range(shape[0])])]
        return Ring(slots, dtype)

    def fence(self) -> None:
        for slot in getattr(self, "buffers", []):
            slot.visible = True

    @staticmethod
    def store(pointer: Pointer, value: Tensor, mask: Tensor) -> None:
        at = (pointer.at + torch.zeros_like(mask, dtype=torch.int64))[mask]
        assert not len(at) or (at.min() >= 0 and at.max() < pointer.t.numel())
        pointer.t.view(-1)[at] = value[mask].to(pointer.t.dtype)

    def language(self) -> SimpleNamespace:
        """`triton.experimental.gluon.language`, as far as the kernel speaks it."""

        def layout(*args: Any, **named: Any) -> None:
            return None

        def tensor(x: Any) -> Tensor:
            return torch.as_tensor(x)

        return SimpleNamespace(
            float32=torch.float32, int64=torch.int64, constexpr=int, static_range=range,
            SliceLayout=layout, NVMMADistributedLayout=layout, DotOperandLayout=layout, NVMMASharedLayout=layout,
            program_id=lambda axis: torch.tensor(self.program), cdiv=lambda a, b: -(-a // b),
            zeros=lambda shape, dtype, layout: torch.zeros(shape, dtype=dtype),
            full=lambda shape, value, dtype, layout: torch.full(shape, value, dtype=dtype),
            arange=lambda a, b, layout: torch.arange(a, b), convert_layout=lambda x, layout: x,
            maximum=lambda a, b: torch.maximum(tensor(a), tensor(b)), max=lambda x, axis: x.amax(axis),
            sum=lambda x, axis: x.sum(axis), exp2=torch.exp2, log2=torch.log2,
            where=lambda c, a, b: torch.where(c, a, b), store=self.store,
            allocate_shared_memory=self.allocate, warp_specialize=self.specialize,
        )  # fmt: skip

    def translate(self, module: Any) -> dict[str, Any]:
        """The module's functions, which see this machine in place of Triton."""
        names: dict[str, Any] = {
            "gl": self.language(), "warpgroup_mma": self.multiply, "warpgroup_mma_wait": self.multiply_wait,
            "fence_async_shared": self.fence, "copy_in": self.copy_in, "copy_out": self.copy_out,
            "tma": SimpleNamespace(store_wait=lambda left: None),
            "mbarrier": SimpleNamespace(
                init=self.init, wait=self.wait, arrive=self.arrive, expect=self.expect, MBarrierLayout=lambda: None
            ),
        }  # fmt: skip
        for name, value in vars(module).items():
            if hasattr(value, "is_gluon"):
                own = value.fn.__module__ == module.__name__
                names[name] = FunctionType(value.fn.__code__, names) if own else value.fn
        return names
