"""What the user's forward sees while it is traced: a tensor's record, which knows the tensor's shape."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import fx

if TYPE_CHECKING:
    from hwq.quant.tracing.tracer import ForwardTracer


class Unknown:
    """Of a trace without an image: there are no values."""


UNKNOWN = Unknown()
_CONSTANTS = ("ndim", "dtype", "layout", "is_cuda", "is_sparse", "is_quantized", "is_leaf", "itemsize")
"""Attributes of a tensor that are the same for every image, beside its shape."""
CONSTANT_CALLS = ("dim", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "element_size")
"""Methods of that kind."""


class Shape(tuple[Any, ...]):
    """Sizes of a tensor: integers, but for the batch."""

    def numel(self) -> Any:
        """The product."""
        count: Any = 1
        for size in self:
            count = size * count
        return count

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Shape(found) if isinstance(index, slice) else found


class Value(fx.Proxy):
    """A record that knows what eager torch computes here for two images of noise, or `UNKNOWN`.

    What is the same for every image (sizes but the batch's, types) the forward reads as it is. What would
    turn values, or the batch size, into Python numbers is refused with its line.
    """

    tracer: ForwardTracer

    def __init__(self, node: fx.Node, tracer: ForwardTracer) -> None:
        super().__init__(node, tracer)
        self.value: Any = UNKNOWN
        self.of_batch = False

    def __getattr__(self, name: str) -> Any:
        if isinstance(self.value, torch.Tensor):
            if name == "shape":
                return self.tracer.shape_of(self)
            if name in _CONSTANTS:
                return getattr(self.value, name)
        return Attribute(self, name)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.refuse("assigns to a part of a tensor, which is not supported")

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, tuple | list):
            return iter([operator.getitem(self, i) for i in range(len(self.value))])
        if isinstance(self.value, torch.Tensor):
            self.tracer.refuse("takes the images of a batch one by one; hardware has no batch")
        return super().__iter__()

    def __len__(self) -> int:
        if isinstance(self.value, tuple | list):
            return len(self.value)
        if isinstance(self.value, torch.Tensor):
            self._depends(batch=True)
        return self.tracer.to_bool(self)

    def __bool__(self) -> bool:
        if self.value is UNKNOWN:
            return super().__bool__()
        return self._number()

    def _number(self) -> NoReturn:
        self._depends(batch=self.of_batch)

    __int__ = __index__ = __float__ = __complex__ = _number

    def _depends(self, *, batch: bool) -> NoReturn:
        if batch:
            self.tracer.refuse("this forward depends on the batch size, and hardware has no batch")
        self.tracer.refuse(
            "this forward depends on tensor values, and hardware does the same for every image"
        )


def _in_place(function: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any]) -> Any:
    def record(self: Value, other: Any) -> Any:
        numbers = not isinstance(self.value, torch.Tensor | Unknown)
        return self.tracer.create_proxy("call_function", plain if numbers else function, (self, other), {})

    return record


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "matmul"):
    # without these Python takes `x += y` for `x = x + y`, which leaves other names of x alone
    _short = _name.rstrip("_")
    setattr(Value, f"__i{_short}__", _in_place(getattr(operator, f"i{_short}"), getattr(operator, _name)))


class Batch(Value):
    """The batch size: equal to itself; what it is otherwise, nobody may ask."""

    def __eq__(self, other: object) -> Any:
        return True if isinstance(other, Batch) else self._compare(operator.eq, other)

    def __ne__(self, other: object) -> Any:
        return False if isinstance(other, Batch) else self._compare(operator.ne, other)

    __hash__ = fx.Proxy.__hash__

    def _compare(self, how: Any, other: object) -> Any:
        return self.tracer.create_proxy("call_function", how, (self, other), {})


class Attribute(fx.proxy.Attribute):
    """As torch.fx's, but it holds the record of its value."""

    def __getattr__(self, name: str) -> Any:
        return Attribute(self, name)

    @property
    def node(self) -> fx.Node:  # type: ignore[override]  # as torch.fx's
        if self._node is None:
            self.record = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {})
            self._node = self.record.node
        return self._node
