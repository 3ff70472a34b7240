"""torch.fx tracing, and what kind of thing each node of a traced network is."""

from __future__ import annotations

import operator
import re
import traceback
from collections.abc import Iterator
from enum import Enum, auto
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
    functional.dropout: Kind.SKIP,
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
        calls = [(frame.f_code, line) for frame, line in traceback.walk_stack(None)]
        node.stack_trace = "\n".join(
            f'File "{code.co_filename}", line {line}, in {code.co_name}' for code, line in reversed(calls)
        )
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(_MODULES)) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> fx.GraphModule:
    """Trace a network (images (N, C, H, W) -> logits). Parameters are shared with `model`, not copied.

    image_shape: (H, W, C); with it, sizes that the code reads from tensors become constants (the batch
    size stays free). Raises UnsupportedError naming the source line.
    """
    _check_names(model)
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except UnsupportedError:
        raise
    except Exception as error:  # user code runs in here and may raise anything
        path = tracer.inside[-1] if tracer.inside else ""
        place = _place(path or type(model).__name__, _frames(error))
        raise UnsupportedError(
            f"{place}: cannot trace this forward: {error} (one that depends on tensor values cannot become "
            "hardware)"
        ) from error
    module = fx.GraphModule(tracer.root, graph, class_name=type(model).__name__)
    if image_shape is not None:
        _fold_shapes(module, image_shape)
    return module


def _check_names(model: nn.Module) -> None:
    """torch.fx writes module names into Python source: refuse those that would not come out as names."""
    for path, _ in model.named_modules():
        for part in path.split("."):
            if iskeyword(part) or any(c in '"\\' or not c.isprintable() for c in part):
                raise UnsupportedError(
                    f"module {path!r}: torch.fx cannot trace a module named {part!r} (a keyword of Python, "
                    "a quote or a control character in it); rename it"
                )


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
    if found is Kind.ADD and any(not isinstance(a, fx.Node) for a in node.args[:2]):
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
    """The path, and the innermost line that is neither torch's nor hwq's tracing."""
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
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
    training = module.training
    module.eval()
    try:
        first = next(module.parameters(), torch.zeros(()))
        with torch.no_grad():
            shapes = _Shapes(module)
            shapes.extra_traceback = False  # it would rewrite the message
            shapes.run(torch.zeros(2, c, h, w, device=first.device, dtype=first.dtype))
    except UnsupportedError as error:
        raise UnsupportedError(f"the network does not take images of {h} x {w} x {c}: {error}") from error
    finally:
        module.train(training)
    for node, dim, source in list(_shape_reads(module.graph)):
        shape = source.meta[SHAPE]
        if dim % len(shape) == 0:
            continue
        node.replace_all_uses_with(shape[dim])
        module.graph.erase_node(node)
    for node in reversed(list(module.graph.nodes)):
        if not node.users and (node.target in ("size", getattr, operator.getitem)):
            module.graph.erase_node(node)
    module.recompile()


def _shape_reads(graph: fx.Graph) -> Iterator[tuple[fx.Node, int, fx.Node]]:
    """(node, dimension, tensor) for x.size(d), x.size()[d] and x.shape[d]."""
    for node in graph.nodes:
        match node.op, node.target, node.args:
            case "call_method", "size", (fx.Node() as source, int() as dim):
                yield node, dim, source
            case "call_function", operator.getitem, (fx.Node() as of, int() as dim):
                whole = (of.op, of.target, len(of.args)) == ("call_method", "size", 1)
                tensor = of.args[0]
                if isinstance(tensor, fx.Node) and (whole or of.args[1:] == ("shape",)):
                    yield node, dim, tensor
