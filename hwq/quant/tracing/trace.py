"""torch.fx tracing, and what kind of thing each node of a traced network is."""

from __future__ import annotations

import operator
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from itertools import takewhile, zip_longest
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from hwq.errors import UnsupportedError

SHAPE = "hwq_shape"
"""Key of a node's meta: the shape of its tensor for a batch of 2."""


class Kind(Enum):
    """What a node does, as far as the placement of quantisers is concerned."""

    INPUT = auto()
    LAYER = auto()  # conv, linear: an accumulator
    NORM = auto()  # batch normalisation
    RELU = auto()  # ReLU, ReLU6
    ADD = auto()
    AVERAGE = auto()  # average pool, global or not
    CONCAT = auto()
    CODES = auto()  # moves codes without arithmetic: max pool, flatten, slices, zero padding
    SKIP = auto()  # nothing at all in eval mode: dropout, identity, contiguous
    SHAPE = auto()  # integers of a tensor's shape
    OUTPUT = auto()


_MODULES: dict[type[nn.Module], Kind] = {
    nn.Conv2d: Kind.LAYER,
    nn.Linear: Kind.LAYER,
    nn.BatchNorm2d: Kind.NORM,
    nn.BatchNorm1d: Kind.NORM,
    nn.ReLU: Kind.RELU,
    nn.ReLU6: Kind.RELU,
    nn.AvgPool2d: Kind.AVERAGE,
    nn.AdaptiveAvgPool2d: Kind.AVERAGE,
    nn.MaxPool2d: Kind.CODES,
    nn.Flatten: Kind.CODES,
    nn.Dropout: Kind.SKIP,
    nn.Dropout2d: Kind.SKIP,
    nn.Identity: Kind.SKIP,
}
_FUNCTIONS: dict[Any, Kind] = {
    torch.relu: Kind.RELU,
    torch.relu_: Kind.RELU,
    functional.relu: Kind.RELU,
    functional.relu_: Kind.RELU,
    functional.relu6: Kind.RELU,
    operator.add: Kind.ADD,
    operator.iadd: Kind.ADD,
    torch.add: Kind.ADD,
    functional.avg_pool2d: Kind.AVERAGE,
    functional.adaptive_avg_pool2d: Kind.AVERAGE,
    torch.mean: Kind.AVERAGE,
    torch.cat: Kind.CONCAT,
    torch.concat: Kind.CONCAT,
    functional.max_pool2d: Kind.CODES,
    torch.max_pool2d: Kind.CODES,
    torch.flatten: Kind.CODES,
    torch.reshape: Kind.CODES,
    torch.squeeze: Kind.CODES,
    functional.pad: Kind.CODES,
    operator.getitem: Kind.CODES,
}
_METHODS: dict[str, Kind] = {
    "relu": Kind.RELU,
    "relu_": Kind.RELU,
    "add": Kind.ADD,
    "add_": Kind.ADD,
    "mean": Kind.AVERAGE,
    "flatten": Kind.CODES,
    "view": Kind.CODES,
    "reshape": Kind.CODES,
    "squeeze": Kind.CODES,
    "contiguous": Kind.SKIP,
    "size": Kind.SHAPE,
    "dim": Kind.SHAPE,
}
_DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout2d: nn.Dropout2d,
}


class _Tracer(fx.Tracer):
    """Keeps stack traces; torch.nn modules and their subclasses are leaves.

    inside: paths of the modules whose forward is being traced; after a failure, of the one that failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        # as torch's `record_stack_traces` does, which imports its compiler first: seconds of every command
        node = super().create_node(*args, **kwargs)
        inner = takewhile(lambda call: call[0].f_code is not _graph.__code__, traceback.walk_stack(None))
        calls = [(frame.f_code, line) for frame, line in inner]
        node.stack_trace = "\n".join(
            f'File "{code.co_filename}", line {line}, in {code.co_name}' for code, line in reversed(calls)
        )
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(_MODULES)) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> fx.GraphModule:
    """Trace a network (images (N, C, H, W) -> logits). Parameters are shared with `model`, not copied.

    image_shape: (H, W, C); with it, sizes that the code reads from tensors become constants (the batch
    size stays free). Calls of F.dropout become modules, active in training alone. Raises UnsupportedError
    naming the source line, also for a network that computes something else in evaluation.
    """
    _check_modules(model)
    with _modes_kept(model):
        evaluated, graph = (_graph(model.train(training)) for training in (False, True))
    for one, other in zip_longest(graph.nodes, evaluated.nodes):
        if one is None or other is None or _call(one) != _call(other):
            _check_ops(fx.GraphModule(model, evaluated))  # an unknown op is the plainer complaint
            place = _place(type(model).__name__, []) if one is None else where(one)
            raise UnsupportedError(
                f"{place}: from here on the forward differs in training and in evaluation (self.training); "
                "hardware can only be one of them"
            )
    module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    _modules_for_dropouts(module)
    if image_shape is not None:
        _fold_shapes(module, image_shape)
    return module


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module, not the network alone, is in training or evaluation as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _graph(model: nn.Module) -> fx.Graph:
    """The calls of a forward pass in the mode that the network is in."""
    tracer = _Tracer()
    try:
        return tracer.trace(model)
    except UnsupportedError:
        raise
    except Exception as error:  # user code runs in here and may raise anything
        path = tracer.inside[-1] if tracer.inside else ""
        place = _place(path or type(model).__name__, _frames(error))
        raise UnsupportedError(
            f"{place}: cannot trace this forward: {error} (one that depends on tensor values cannot become "
            "hardware)"
        ) from error


def _check_ops(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        kind_of(module, node)


def _call(node: fx.Node) -> tuple[object, ...]:
    """What a node computes; of a dropout not whether it is in training."""
    args, kwargs = (node.args[:2], {}) if node.target in _DROPOUTS else (node.args, node.kwargs)
    return node.op, node.target, repr(args), repr(kwargs)


def _modules_for_dropouts(module: fx.GraphModule) -> None:
    """F.dropout(x, p, self.training) was traced with the mode of that moment; a module follows its own."""
    for node in list(module.graph.nodes):
        if node.target not in _DROPOUTS:
            continue
        given = {**dict(zip(("input", "p"), node.args, strict=False)), **node.kwargs}
        name = node.name
        while hasattr(module, name):
            name += "_"
        module.add_submodule(name, _DROPOUTS[node.target](given.get("p", 0.5)).train(module.training))
        with module.graph.inserting_before(node):
            call = module.graph.create_node("call_module", name, (given["input"],))
        call.meta = dict(node.meta)
        call.stack_trace = node.stack_trace
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)


def _check_modules(model: nn.Module) -> None:
    """Refuse what would be lost without a word: names that are none in Python (torch.fx writes it), hooks."""
    for path, module in model.named_modules():
        for part in path.split("."):
            if iskeyword(part) or any(c in '"\\' or not c.isprintable() for c in part):
                raise UnsupportedError(
                    f"module {path!r}: torch.fx cannot trace a module named {part!r} (a keyword of Python, "
                    "a quote or a control character in it); rename it"
                )
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnsupportedError(
                f"'{path or type(model).__name__}': has forward hooks, which hardware cannot have; remove "
                "them (weight_norm, spectral_norm and prune are such hooks, and have functions for that)"
            )


def own_forward(module: nn.Module) -> bool:
    """Whether a subclass of a layer that hwq knows computes something else than the layer."""
    base = next((t for t in _MODULES if isinstance(module, t)), None)
    return base is not None and ("forward" in vars(module) or type(module).forward is not base.forward)


def output_shape(module: fx.GraphModule) -> tuple[int, ...]:
    """(2, ...): shape of the network's output for two images. Needs a trace with an image shape."""
    output = next(n for n in module.graph.nodes if n.op == "output")
    shape: tuple[int, ...] = output.meta[SHAPE]
    return shape


def kind_of(module: fx.GraphModule, node: fx.Node) -> Kind:
    """Raises UnsupportedError for what hwq does not know, naming module path and source line."""
    match node.op:
        case "placeholder":
            return Kind.INPUT
        case "output":
            return Kind.OUTPUT
        case "call_module":
            child = module.get_submodule(str(node.target))
            found = next((k for t, k in _MODULES.items() if isinstance(child, t)), None)
            what = type(child).__name__
        case "call_function":
            folded = node.target in (operator.mul, operator.floordiv) and not node.all_input_nodes
            size = node.target is getattr and node.args[1:] == ("shape",)
            if folded or size or _of_shape(module, node):
                return Kind.SHAPE
            found = _FUNCTIONS.get(node.target)
            what = getattr(node.target, "__name__", str(node.target))
        case "call_method":
            found = _METHODS.get(str(node.target))
            what = f"Tensor.{node.target}"
        case _:
            found, what = None, f"the tensor '{node.target}'"
    if found is None or (found is Kind.ADD and len(node.all_input_nodes) == 0):
        raise UnsupportedError(f"{where(node)}: {what} is not supported")
    operands = [*node.args[:2], *(node.kwargs[k] for k in ("input", "other") if k in node.kwargs)]
    if found is Kind.ADD and any(not isinstance(a, fx.Node) for a in operands):
        raise UnsupportedError(f"{where(node)}: adds a constant, which is not supported")
    return found


def _of_shape(module: fx.GraphModule, node: fx.Node) -> bool:
    sources = node.all_input_nodes
    # no module yields integers, and those of `prepare`, quantisers, have no kind
    return bool(sources) and all(n.op != "call_module" and kind_of(module, n) is Kind.SHAPE for n in sources)


def owner(node: fx.Node) -> str:
    """Path of the module whose forward made the node: 'layer1.0', or '' for the network itself."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def where(node: fx.Node) -> str:
    """'layer1.0.act (net.py:12)': module path and source line, as far as they are known."""
    path = owner(node) or (str(node.target) if node.op == "call_module" else node.name)
    return _place(path, _FRAME.findall(node.stack_trace or ""))


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """(file, line) of every call that led to the error."""
    return [(f.filename, str(f.lineno)) for f in traceback.extract_tb(error.__traceback__)]


def _place(path: str, frames: list[tuple[str, str]]) -> str:
    """The path, and the innermost line that is neither torch's nor of the tracing."""
    others = (str(Path(torch.__file__).parent) + os.sep, __file__, "<")
    own = [(name, line) for name, line in frames if not name.startswith(others)]
    return f"'{path}' ({Path(own[-1][0]).name}:{own[-1][1]})" if own else f"'{path}'"


class _Shapes(fx.Interpreter):
    """Notes every tensor's shape as its node's meta['hwq_shape']; names the node that does not fit."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:  # layers raise anything on a wrong shape
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsupportedError(f"{where(n)}: {first}") from error
        if isinstance(result, torch.Tensor):
            n.meta[SHAPE] = tuple(result.shape)
        return result


def _fold_shapes(module: fx.GraphModule, image_shape: tuple[int, int, int]) -> None:
    """Replace every integer read from a shape, but the batch size, by its value."""
    h, w, c = image_shape
    first = next(module.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), _modes_kept(module):
            shapes = _Shapes(module.eval())
            shapes.extra_traceback = False  # it would rewrite the message
            shapes.run(torch.zeros(2, c, h, w, device=first.device, dtype=first.dtype))
    except UnsupportedError as error:
        raise UnsupportedError(f"the network does not take images of {h} x {w} x {c}: {error}") from error
    for node in list(module.graph.nodes):
        if node.op == "call_method" and node.target == "dim":
            node.replace_all_uses_with(len(node.args[0].meta[SHAPE]))
            module.graph.erase_node(node)
    for node, dims, source in list(_shape_reads(module.graph)):
        shape = source.meta[SHAPE]
        if 0 in (range(len(shape))[dims] if isinstance(dims, slice) else (dims % len(shape),)):
            continue
        node.replace_all_uses_with(shape[dims])
        module.graph.erase_node(node)
    for node in reversed(list(module.graph.nodes)):
        if not node.users and (node.target in ("size", getattr, operator.getitem)):
            module.graph.erase_node(node)
    module.recompile()


def _shape_reads(graph: fx.Graph) -> Iterator[tuple[fx.Node, int | slice, fx.Node]]:
    """(node, dimension or dimensions, tensor) for x.size(d), x.size()[d], x.shape[d] and x.shape[d:]."""
    for node in graph.nodes:
        match node.op, node.target, node.args:
            case "call_method", "size", (fx.Node() as source, int() as dim):
                yield node, dim, source
            case "call_function", operator.getitem, (fx.Node() as of, int() | slice() as dim):
                if len(node.all_input_nodes) > 1:  # a slice up to another size
                    continue
                whole = (of.op, of.target, len(of.args)) == ("call_method", "size", 1)
                tensor = of.args[0]
                if isinstance(tensor, fx.Node) and (whole or of.args[1:] == ("shape",)):
                    yield node, dim, tensor
