"""The loss of a step: distillation against its formula, bad teachers, mixed precision, compiling."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwq.data import load_split
from hwq.errors import InputError
from hwq.models import build
from hwq.quant import ActQuantizer, Policy, prepare
from hwq.train import Schedule, evaluate, load, restore, train
from hwq.train.flags import recipe_from_flags
from hwq.train.objective import Objective, divergence
from hwq.train.precision import Precision
from tests.train.runs import DIGITS, FLOAT, TINY, Watch, recipe, run


class _Fixed(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def test_divergence_is_its_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(4, 10, dtype=torch.float64)
    p = (wanted / 3).softmax(1)
    q = (logits.detach() / 3).softmax(1)
    value = divergence(logits, wanted, 3.0)
    # sums of 40 float64 terms in another order
    assert value.item() == pytest.approx(float(9 * (p * (p.log() - q.log())).sum() / 4), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.allclose(gradient, 3 * (q - p) / 4, rtol=1e-10, atol=1e-14)
    assert float(divergence(wanted, wanted, 3.0)) == 0.0


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_distill_is_the_teachers_share(share: float) -> None:
    torch.manual_seed(0)
    logits, wanted = torch.randn(6, 10), torch.randn(6, 10)
    labels = torch.arange(6)
    schedule = Schedule(distill=share, temperature=2.0, label_smoothing=0.1)
    found = Objective(schedule, nn.Module(), _Fixed(wanted)).loss(torch.zeros(6), logits, labels)
    hard = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(found, (1 - share) * hard + share * divergence(logits, wanted, 2.0))


def test_the_penalty_is_alpha_squared() -> None:
    model = prepare(build(TINY, (8, 8, 1), 10), Policy(), (8, 8, 1))
    alphas = [m.alpha() for m in model.modules() if hasattr(m, "alpha") and isinstance(m, ActQuantizer)]
    penalty = Objective(Schedule(alpha_decay=0.5), model, None).penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.5 * sum(a.item() ** 2 for a in alphas), rel=1e-6)  # float32
    assert Objective(Schedule(alpha_decay=0.0), model, None).penalty() is None


def test_teachers(tmp_path: Path, float_run: Path) -> None:
    """A run's checkpoint, a state dict with its network's name, and the network that the run starts from."""
    watch = Watch()
    small = {"epochs": 1, "distill": 1.0}
    train(recipe(teacher=str(float_run), **small), tmp_path / "a", reporter=watch)
    test = load_split(DIGITS, "test")
    model, meta = restore(float_run)
    assert f"teacher: {evaluate(model, test, meta.mean, meta.std):.2f}% on the test split" in watch.notes
    torch.save(build("mlp", (8, 8, 1), 10).state_dict(), tmp_path / "mlp.pt")
    run(recipe(teacher=str(tmp_path / "mlp.pt"), teacher_model="mlp", **small), tmp_path / "b")
    run(recipe(start=float_run, **small), tmp_path / "c")
    assert len({load(tmp_path / name).meta.progress["teacher"] for name in "abc"} - {""}) == 3


def test_a_teacher_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path counts from the working directory; the recipe's share stands, else a half."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text("[data]\nname = 'digits'\n")
    (tmp_path / "taught.toml").write_text(
        "[data]\nname = 'digits'\n[train]\ndistill = 0.7\nteacher = 'other.pt'\n"
    )
    for name, share in (("plain.toml", 0.5), ("taught.toml", 0.7)):
        schedule = recipe_from_flags(name, {"teacher": "float.pt"}).train
        assert (schedule.distill, schedule.teacher) == (share, str(tmp_path / "float.pt"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "distill needs a teacher"),
        ({"teacher": "/nowhere/net.pt"}, "no such file"),
        ({"teacher": "mlp.pt"}, "another model"),
        ({"teacher": "mlp.pt", "teacher_model": "resnet999"}, "resnet999"),
        ({"start": "quantised"}, "was trained quantised"),
        ({"teacher": "quantised", "other": True}, r"a teacher with another mean \(\(0.305183,\), not"),
        ({"start": "float", "other": True}, r"a teacher with another mean \(\(0.305183,\), not"),
    ],
)
def test_teachers_that_cannot_teach(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    torch.save(build("mlp", (8, 8, 1), 10).state_dict(), tmp_path / "mlp.pt")
    if "quantised" in changes.values():
        run(recipe(epochs=0), tmp_path / "quantised")
    if "float" in changes.values():
        run(recipe(policy=FLOAT, epochs=0), tmp_path / "float")
    for key in ("teacher", "start"):
        if key in changes:
            changes = {**changes, key: str(tmp_path / changes[key])}
    other = changes.pop("other", False)
    chosen = recipe(distill=0.5, **changes)
    if other:
        chosen = replace(chosen, mean=(0.3,), std=(0.5,))
    with pytest.raises(InputError, match=says):
        run(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_keeps_codes_in_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, set[torch.dtype]] = {"codes": set(), "layers": set()}
    original = ActQuantizer.forward

    def forward(self: ActQuantizer, x: Tensor) -> Tensor:
        seen["codes"].add(x.dtype)
        return original(self, x)

    monkeypatch.setattr(ActQuantizer, "forward", forward)
    conv = functional.conv2d
    monkeypatch.setattr(
        nn.Conv2d, "_conv_forward", lambda s, x, w, b: _noted(conv(x, w, b, s.stride, s.padding), seen)
    )
    _, half = run(recipe(amp="bf16", epochs=1), tmp_path / "half")
    assert seen["codes"] == {torch.float32}
    assert torch.bfloat16 in seen["layers"]
    _, full = run(recipe(epochs=1), tmp_path / "full")
    assert half != full
    assert half == pytest.approx(full, rel=0.05)  # 8 significant bits


def _noted(out: Tensor, seen: dict[str, set[torch.dtype]]) -> Tensor:
    seen["layers"].add(out.dtype)
    return out


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="amp = 'fp16' needs a GPU, not 'cpu'; 'bf16' runs there"):
        run(recipe(amp="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert Precision("off", torch.device("cpu"), nn.Module()).state() == {}


@pytest.mark.parametrize(
    "policy", [FLOAT, Policy(weight_bits=4, act_bits=4, weight_method="lsq", act_method="lsq")]
)
def test_compiled_steps_train_the_same_network(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # both passes traced, without the code generator: quick enough for a test
    calls: list[object] = []
    whole = torch.compile

    def compiling(model: Any, **options: Any) -> Any:
        calls.append(model)
        return functools.partial(whole, backend="aot_eager")(model, **options)

    monkeypatch.setattr(torch, "compile", compiling)
    _, fast = run(recipe(epochs=1, compile=True, policy=policy), tmp_path / "fast")
    _, plain = run(recipe(epochs=1, policy=policy), tmp_path / "plain")
    assert len(calls) == 1
    # a compiled sum may be taken in another order: the last bits of float32, over five steps
    assert fast == pytest.approx(plain, rel=1e-5)
    one, other = load(tmp_path / "fast"), load(tmp_path / "plain")
    assert all(torch.allclose(v, other.model[k], rtol=1e-3, atol=1e-5) for k, v in one.model.items())
