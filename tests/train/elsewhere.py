"""A device that is not the CPU, on machines without one: real numbers in tensors that say `meta`.

Like a GPU it refuses tensors of the CPU, but where torch takes them too: numbers (0-dim) in pointwise
operations, indices, copies. So a training runs on it, to the bit as on the CPU, or raises as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ELSEWHERE = "meta"
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)


class Distant(Tensor):
    """Holds `near`, a tensor of the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Distant:
        made = Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=ELSEWHERE,
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does not make of operations: a tensor from numbers, and numbers from a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if func is Tensor.new_tensor and isinstance(args[0], Distant):
            return func(args[0].near, *args[1:], **kwargs).to(ELSEWHERE)
        if func is Tensor.tolist and isinstance(args[0], Distant):
            return args[0].near.tolist()
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[str]:
    """A device of that name; what is made on it is a `Distant`."""
    with _Functions(), _Operations():
        yield ELSEWHERE


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    distant = [t for t in given if isinstance(t, Distant)]
    wanted = kwargs.get("device")
    if distant:
        _refuse(func, args, [t for t in given if not isinstance(t, Distant)])
    if wanted is not None:
        kwargs = {**kwargs, "device": "cpu"}
    far = bool(distant) if wanted is None else torch.device(wanted).type == ELSEWHERE
    if func is _ATEN.copy_.default:
        far = isinstance(args[0], Distant)
    # an operation in place yields the tensor that it changed
    owners = {id(t.near): t for t in distant}
    near_args, near_kwargs = tree_map_only(Distant, lambda t: t.near, (tuple(args), kwargs))
    out = func(*near_args, **near_kwargs)
    if not far:
        return out
    return tree_map_only(Tensor, lambda t: owners[id(t)] if id(t) in owners else Distant(t), out)


def _refuse(func: Any, args: Sequence[Any], near: list[Tensor]) -> None:
    if func in _COPIES or (func is _ATEN.index.Tensor and isinstance(args[0], Distant)):
        return
    pointwise = torch.Tag.pointwise in func.tags
    if any(t.dim() or not pointwise for t in near):
        raise RuntimeError(f"{func}: tensors on two devices")
