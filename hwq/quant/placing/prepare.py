"""A float network -> the same network with quantising layers and activation quantisers."""

from __future__ import annotations

from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.methods.table import make_weight
from hwq.quant.placing.choices import Choices, Entries
from hwq.quant.placing.layers import QuantConv2d, QuantLinear
from hwq.quant.placing.placer import INPUT_QUANT, Placer, freeze, readers
from hwq.quant.placing.policy import Policy
from hwq.quant.tracing.kinds import Kind, kinds_of
from hwq.quant.tracing.places import where
from hwq.quant.tracing.trace import trace


def prepare(
    model: nn.Module, policy: Policy, image_shape: tuple[int, int, int] | None = None
) -> fx.GraphModule:
    """Trace `model`, swap Conv2d and Linear, insert activation quantisers. Shares the parameters.

    image_shape: (H, W, C), see `trace`. A quantiser follows the end of every chain conv-BN-ReLU,
    add-ReLU, BN, average pool, and the input; a conv(+BN) that feeds only additions has one only with
    `policy.branch`; operands of a concat share one; the logits have none. With `policy.residual_bits`
    codes that both sums and layers read have two, the layers' after the sums'. Its type is unsigned where
    the chain cannot be negative. Layer names (and so state dicts) stay those of `model`. What the entries of
    the policy's bit lists stand for, `model.bit_entries` says (see `hwq.quant.placing.choices.Entries`).
    Raises UnsupportedError naming module path and source line, InputError for a policy that does not fit.
    """
    named = getattr(model, "bit_entries", None)
    module = trace(model, image_shape)
    _drop_identities(module)
    kinds = kinds_of(module)
    _check(module, kinds)
    layers = list(dict.fromkeys(str(n.target) for n, k in kinds.items() if k is Kind.LAYER))
    choices = Choices(policy, layers, Entries(layers, named))
    for layer in layers:
        _swap(module, layer, kinds, choices)
    Placer(module, kinds, choices, branch=policy.branch).run()
    choices.check()
    module.graph.lint()
    module.recompile()
    return module


def _drop_identities(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_module" and type(module.get_submodule(node.target)) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _check(module: fx.GraphModule, kinds: dict[fx.Node, Kind]) -> None:
    if hasattr(module, INPUT_QUANT):
        raise UnsupportedError(f"'{INPUT_QUANT}' is the image's quantiser; give the module another name")
    inputs = [n for n, k in kinds.items() if k is Kind.INPUT]
    if len(inputs) != 1:
        raise UnsupportedError(f"the network has {len(inputs)} inputs; one image tensor is supported")
    output = next(n for n, k in kinds.items() if k is Kind.OUTPUT)
    if not isinstance(output.args[0], fx.Node):
        raise UnsupportedError("the network returns several values; one tensor of logits is supported")
    if Kind.LAYER not in kinds.values():
        raise UnsupportedError("the network has no Conv2d and no Linear layer")
    for node, kind in kinds.items():
        if node.op != "call_module":
            continue
        child = module.get_submodule(str(node.target))
        if kind is Kind.LAYER:
            if type(child) not in (nn.Conv2d, nn.Linear):
                raise UnsupportedError(f"{where(node)}: {type(child).__name__} is already a special layer")
            if isinstance(child, nn.Conv2d) and child.padding_mode != "zeros":
                raise UnsupportedError(
                    f"{where(node)}: padding_mode='{child.padding_mode}' is not supported; use 'zeros'"
                )


def _swap(module: fx.GraphModule, target: str, kinds: dict[fx.Node, Kind], choices: Choices) -> None:
    choice = choices.weight(target)
    nodes = [n for n in kinds if n.op == "call_module" and n.target == target]
    normed = all(any(kinds[u] is Kind.NORM for u in readers(n, kinds)) for n in nodes)
    rescale = choice.rescale
    if rescale == "auto":
        rescale = "none" if normed else "max"
    child = module.get_submodule(target)
    assert isinstance(child, nn.Conv2d | nn.Linear)
    quantizer = make_weight(
        choice.method,
        choice.bits,
        per_channel=choice.per_channel,
        channels=child.weight.shape[0],
        rescale=rescale,
    )
    if quantizer.off:
        freeze(quantizer)
    else:
        quantizer.start(child.weight)
    new: nn.Module
    if isinstance(child, nn.Conv2d):
        new = QuantConv2d.of(child, quantizer)
    else:
        new = QuantLinear.of(child, quantizer)
    new.train(child.training)
    parent, _, name = target.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
