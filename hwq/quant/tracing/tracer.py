"""The calls of one forward pass, as torch.fx records them, beside what eager torch computes."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from itertools import takewhile
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import torch
from torch import Tensor, fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.effects import Watch
from hwq.quant.tracing.kinds import LAYERS
from hwq.quant.tracing.places import frames, place, where
from hwq.quant.tracing.proxies import CONSTANT_CALLS, UNKNOWN, Batch, Shape, Value
from hwq.quant.tracing.redundant import does_nothing, mark
from hwq.quant.tracing.shapes import SHAPE


class ForwardTracer(fx.Tracer):
    """Keeps stack traces; torch.nn modules and their subclasses are leaves.

    images: with them, every call is done in eager torch, too, as it is recorded: (2, C, H, W). Then nodes
    have shapes and effects. inside: paths of the modules whose forward is being traced; after a failure, of
    the one that failed.
    """

    def __init__(self, images: Tensor | None) -> None:
        super().__init__()
        self.images = images
        self.inside: list[str] = []
        self.watch = Watch()
        self.eager = False  # a call is being done: nothing of it is recorded
        self.values: WeakValueDictionary[fx.Node, Value] = WeakValueDictionary()

    # -- what torch.fx asks

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.eager:
            return forward(*args, **kwargs)
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.eager else super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        # as torch's `record_stack_traces` does, which imports its compiler first: seconds of every command
        node = super().create_node(*args, **kwargs)
        node.stack_trace = "\n".join(f'File "{file}", line {line}' for file, line in self._stack())
        return node

    def proxy(self, node: fx.Node) -> Value:
        made = Value(node, self)
        self.values[node] = made
        return made

    def create_arg(self, a: Any) -> Any:
        return super().create_arg(tuple(a) if isinstance(a, Shape) else a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        if kind == "placeholder" and args and len(self.graph.nodes):
            return args[0]  # the call with images alone takes the default
        if target is torch._assert:
            torch._assert(bool(args[0]), *args[1:], **kwargs)
            return None
        constant = self._constant(kind, target, args, kwargs)
        if constant is not UNKNOWN:
            return constant
        made = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        assert isinstance(made, Value)
        self.values[made.node] = made
        if self.images is not None:
            self._compute(made, args, kwargs)
        return made

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.refuse("this forward depends on tensor values, or on sizes, which are not known here")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        self.refuse("this forward loops over a tensor, of which nothing is known here")

    # -- sizes

    def shape_of(self, tensor: Value) -> Shape:
        """The sizes of a record's tensor; the first is the batch."""
        sizes = tuple(tensor.value.shape)
        if not sizes:
            return Shape()
        return Shape((self._batch(tensor), *sizes[1:]))

    def _batch(self, tensor: fx.Proxy) -> Batch:
        batch = Batch(self.create_node("call_method", "size", (tensor.node, 0), {}), self)
        batch.value, batch.of_batch = self._value(tensor).shape[0], True
        self.values[batch.node] = batch
        return batch

    def _constant(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """What a call returns for every image, `UNKNOWN` for what differs or is a tensor."""
        name = str(getattr(target, "__name__", target))
        if kind not in ("call_method", "call_function") or not args or not isinstance(args[0], fx.Proxy):
            return UNKNOWN
        value = self._value(args[0])
        if not isinstance(value, Tensor):
            return UNKNOWN
        if name == "size" and kind == "call_method":
            shape = self.shape_of(self.values[args[0].node])
            given = (*args[1:], *kwargs.values())
            try:
                return shape[given[0]] if given else shape
            except IndexError:
                self.refuse(f"a tensor of {len(shape)} dimensions has no size({given[0]})")
        if name in CONSTANT_CALLS:
            return getattr(value, name)(*args[1:], **kwargs)
        return UNKNOWN

    # -- eager torch

    def _value(self, record: fx.Proxy) -> Any:
        held = self.values.get(record.node)
        return UNKNOWN if held is None else held.value

    def _compute(self, made: Value, args: Any, kwargs: Any) -> None:
        """Do the call as the forward would, and note what it did to memory."""
        node = made.node
        if node.op == "placeholder" and node.prev.op == "placeholder":
            return  # a second input: there is one image
        given: list[tuple[Any, Any]] = []
        batches = [node.target == "numel" or node.target == "nelement"]

        def value(argument: Any) -> Any:
            if not isinstance(argument, fx.Proxy):
                found = argument
            else:
                found = self._value(argument)
                held = self.values.get(argument.node)
                batches.append(held is not None and held.of_batch)
            given.append((argument, found))
            return found

        inputs = [fx.node.map_aggregate(part, value) for part in (tuple(args), dict(kwargs))]
        if any(found is UNKNOWN for _, found in given):
            return
        nodes: list[Any] = []
        fx.node.map_aggregate((node.args, node.kwargs), lambda a: nodes.append(a))
        pairs = [(n, v) for n, (_, v) in zip(nodes, given, strict=False) if isinstance(n, fx.Node)]
        noted = self.watch.before(pairs)
        try:
            with self._eagerly():
                made.value = self._do(node, *inputs)
        except Exception as error:  # layers raise anything on a wrong shape
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsupportedError(
                f"the network does not take images{_size(self.images, ' of ')}: {where(node)}: {first}"
            ) from error
        self.watch.after(node, noted, made.value)
        if isinstance(made.value, Tensor):
            node.meta[SHAPE] = tuple(made.value.shape)
            if does_nothing(node, inputs[0][0] if inputs[0] else None, made.value):
                mark(node)
        elif not isinstance(made.value, tuple | list):
            made.of_batch = any(batches)

    def _do(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        match node.op:
            case "placeholder":
                return self.images
            case "get_attr":
                return reduce(getattr, str(node.target).split("."), self.root)
            case "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    @contextmanager
    def _eagerly(self) -> Iterator[None]:
        self.eager = True
        try:
            with torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            self.eager = False

    # -- lines

    def refuse(self, why: str) -> NoReturn:
        """Raise UnsupportedError for the line of the user's code that runs now."""
        path = self.inside[-1] if self.inside else ""
        at = place(path or type(self.root).__name__, [(file, str(line)) for file, line in self._stack()])
        raise UnsupportedError(f"{at}: {why}")

    def _stack(self) -> list[tuple[str, int]]:
        """(file, line) of the calls from the network's forward to here."""
        inner = takewhile(lambda call: call[0].f_code is not calls.__code__, traceback.walk_stack(None))
        return [(frame.f_code.co_filename, line) for frame, line in inner][::-1]


def calls(model: nn.Module, images: Tensor | None = None) -> fx.Graph:
    """The calls of a forward pass in the mode that the network is in; see `ForwardTracer` for the images.

    Raises UnsupportedError, naming the line, for what no trace can show.
    """
    tracer = ForwardTracer(images)
    try:
        graph = tracer.trace(model)
    except UnsupportedError:
        raise
    except Exception as error:  # user code runs in here and may raise anything
        path = tracer.inside[-1] if tracer.inside else ""
        at = place(path or type(model).__name__, frames(error))
        said = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        raise UnsupportedError(f"{at}: cannot trace this forward{_size(images)}: {said}") from error
    return graph


def _size(images: Tensor | None, before: str = " for images of ") -> str:
    if images is None:
        return ""
    _, c, h, w = images.shape
    return f"{before}{h} x {w} x {c}"
