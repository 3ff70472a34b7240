"""`hwq calibrate`: from float networks of every kind to runs that export and train on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hwq.models import build
from hwq.quant import ACT_METHODS, WEIGHT_METHODS
from hwq.quant.calibration import bias
from hwq.train import load, read_recipe, restore
from hwq.train import posttraining as module
from hwq.train.checkpoint import load_weights
from tests.cli.conftest import Hwq, quiet, snapshot

STAGES = ["float", "weights quantised", "activations quantised", "bias correction"]
NORMS = [*STAGES[:2], "batch norms", STAGES[2], "batch norms again", STAGES[3]]


@pytest.fixture(scope="session")
def floating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The residual CNN on digits as floats, two epochs: never changed."""
    run = tmp_path_factory.mktemp("float") / "digits"
    quiet("train", "--float", "--epochs", 2, "--out", run)
    return run


@pytest.fixture(scope="session")
def calibrated(floating: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same at W5A5, without training: never changed."""
    run = tmp_path_factory.mktemp("calibrated") / "digits"
    quiet("calibrate", floating, "-w", 5, "-a", 5, "--out", run)
    return run


def _summary(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "calibration.json").read_text())
    return found


def _accuracies(run: Path) -> dict[str, float]:
    return {s["name"]: s["accuracy"] for s in _summary(run)["stages"]}  # type: ignore[attr-defined]


def test_a_calibrated_network_is_usable_and_exports_bit_exactly(
    calibrated: Path, tmp_path: Path, hwq: Hwq
) -> None:
    calibrated = Path(shutil.copytree(calibrated, tmp_path / "run"))
    stages = _accuracies(calibrated)
    assert list(stages) == STAGES
    assert stages["float"] > 85
    # five bits cost this network next to nothing
    assert stages["bias correction"] > stages["float"] - 3
    assert load(calibrated).meta.accuracy == {
        "float": stages["float"],
        "calibrated": stages["bias correction"],
        "fake_quant": stages["bias correction"],
    }
    said = hwq("evaluate", calibrated).out
    assert f"{stages['bias correction']:.2f}% of 355" in said
    assert hwq("export", calibrated, "--fixed", "32,10").code == 0
    done = hwq("simulate", calibrated, "--build", "native", "--images", 8)
    assert done.code == 0, done.err
    verdict = json.loads((calibrated / "hls" / "verdict-native.json").read_text())
    assert (verdict["mismatches"], verdict["samples"]) == (0, 8)
    swept = hwq("sweep", calibrated, "--fixed", "16,auto", "--images", 32)
    assert swept.code == 0, swept.err


def test_options_reach_the_network(floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    arguments = ("--ranges", "percentile", "--percentile", 99, "--images", 64, "--test-images", 50)
    layers = ("--weights", "dorefa", "--acts", "mpact", "-w", 6, "-a", 4, "--last-bits", 8, "--per-tensor")
    done = hwq("calibrate", floating, *arguments, *layers, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    summary = _summary(tmp_path / "run")
    assert summary["ranges"] == {"method": "percentile", "percentile": 99.0}
    assert (summary["images"], summary["test_images"], summary["bias_images"]) == (64, 50, 64)
    assert summary["bn_estimate"] is True  # of its own accord, with dorefa
    assert list(_accuracies(tmp_path / "run")) == NORMS
    for name, value in _accuracies(tmp_path / "run").items():
        assert f"{name:<22} {value:6.2f}%" in done.out
    model, meta = restore(tmp_path / "run")
    assert (meta.policy.weight_bits, meta.policy.act_bits, meta.policy.last_bits) == (6, 4, 8)
    assert meta.accuracy == {}  # a sample's accuracies are not the split's
    assert {str(q) for n, q in model.named_modules() if n.endswith("relu_quant")} == {"MPact(u4)"}
    bare = hwq(
        *("calibrate", floating, "--no-bn-estimate", "--no-bias-correction", "--weights", "dorefa"),
        *("--images", 64, "--test-images", 50, "--out", tmp_path / "bare"),
    )
    assert bare.code == 0, bare.err
    assert list(_accuracies(tmp_path / "bare")) == STAGES[:3]


def test_the_same_twice(floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    for name in ("one", "two"):
        done = hwq("calibrate", floating, "--images", 128, "--test-images", 20, "--out", tmp_path / name)
        assert done.code == 0, done.err
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def _torch(weights: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def _plain(weights: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(weights, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("kind", ["state dict", "safetensors", "checkpoint", "recipe"])
def test_sources(kind: str, floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    """All say the same; a state dict needs to be told mean and std, which a run knows."""
    stored = load(floating)
    source, more = floating / "best.safetensors", []
    if kind != "checkpoint":
        weights, _ = load_weights(floating, build("digits", (8, 8, 1), 10))
        source = (_plain if kind == "safetensors" else _torch)(weights, tmp_path / "net")
        numbers = [",".join(map(str, v)) for v in (stored.meta.mean, stored.meta.std)]
        more = ["--data", "digits", "--model", "digits", "--mean", numbers[0], "--std", numbers[1]]
    if kind == "recipe":
        text = f'model = "digits"\n[data]\nname = "digits"\nmean = [{numbers[0]}]\nstd = [{numbers[1]}]\n'
        text += '[quant]\nweight_method = "uniform"\nact_method = "uniform"\nper_channel = true\n'
        (tmp_path / "net.toml").write_text(text)
        more = ["--recipe", str(tmp_path / "net.toml")]
    few = ("--images", 128, "--test-images", 20)
    for name, arguments in (("run", [floating]), ("other", [source, *more])):
        done = hwq("calibrate", *arguments, *few, "--out", tmp_path / name)
        assert done.code == 0, done.err
    one, other = load(tmp_path / "run").model, load(tmp_path / "other").model
    assert one.keys() == other.keys()
    assert all(torch.equal(v, other[k]) for k, v in one.items())


# -- as the start of training ----------------------------------------------------------------------


def test_training_starts_with_the_calibrated_ranges(calibrated: Path, tmp_path: Path, hwq: Hwq) -> None:
    done = hwq(
        *("train", calibrated / "recipe.toml", "--init-from", calibrated),
        *("--epochs", 0, "--out", tmp_path / "qat"),
    )
    assert done.code == 0, done.err
    assert f"ranges and batch norms kept from {calibrated}" in done.out
    before, after = load(calibrated), load(tmp_path / "qat")
    assert before.model.keys() == after.model.keys()
    assert all(torch.equal(v, after.model[k]) for k, v in before.model.items())
    assert after.meta.accuracy["fake_quant"] == before.meta.accuracy["fake_quant"]
    assert read_recipe(calibrated / "recipe.toml").policy == after.meta.policy
    refused = hwq("train", "--resume", "--out", calibrated)
    assert (refused.code, len(refused.err.strip().splitlines())) == (2, 1)


def test_training_with_other_bits_calibrates_afresh(calibrated: Path, tmp_path: Path, hwq: Hwq) -> None:
    done = hwq(
        *("train", calibrated / "recipe.toml", "--init-from", calibrated, "-a", 3),
        *("--epochs", 0, "--out", tmp_path / "qat"),
    )
    assert done.code == 0, done.err
    assert "kept" not in done.out
    before, after = load(calibrated).model, load(tmp_path / "qat").model
    assert torch.equal(before["stem.weight"], after["stem.weight"])
    assert not torch.equal(before["relu_quant.top"], after["relu_quant.top"])


@pytest.mark.parametrize(
    ("weights", "acts"),
    [
        *((w, "uniform") for w in WEIGHT_METHODS),
        *(("uniform", a) for a in ACT_METHODS if a != "uniform"),
    ],
)
def test_every_method_is_calibrated_and_is_a_start(weights: str, acts: str, tmp_path: Path, hwq: Hwq) -> None:
    torch.manual_seed(0)
    source = tmp_path / "mlp.pt"
    torch.save(build("mlp", (8, 8, 1), 10).state_dict(), source)
    methods = ("--model", "mlp", "--data", "digits", "--weights", weights, "--acts", acts, "-w", 4)
    few = ("--images", 64, "--test-images", 20)
    done = hwq("calibrate", source, *methods, "-a", 4, *few, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    for bits, kept in ((4, True), (5, False)):
        out = tmp_path / f"qat{bits}"
        start = ("--init-from", tmp_path / "run", "--epochs", 0, "--out", out)
        done = hwq("train", tmp_path / "run" / "recipe.toml", "-a", bits, *start)
        assert done.code == 0, done.err
        assert ("ranges and batch norms kept" in done.out) is kept


# -- memory ----------------------------------------------------------------------------------------


def test_bias_correction_takes_as_many_images_as_fit(
    floating: Path, tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bias, "MEMORY", 300 * 1000 + 999)
    monkeypatch.setattr(bias, "bytes_per_image", lambda model, image: 1000)
    done = hwq("calibrate", floating, "--images", 512, "--test-images", 20, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "bias correction used 300 images" in done.out
    assert _summary(tmp_path / "run")["bias_images"] == 300


# -- mistakes --------------------------------------------------------------------------------------


BAD: dict[str, tuple[Callable[[Path, Path], list[object]], str]] = {
    "no such file": (lambda f, t: [t / "nowhere"], "no such file or folder"),
    "an empty folder": (lambda f, t: [t], "no checkpoint.safetensors in this folder"),
    "no images": (lambda f, t: [f, "--images", 0], "at least 2 images, not 0"),
    "one image": (lambda f, t: [f, "--images", 1], "at least 2 images, not 1"),
    "no test images": (lambda f, t: [f, "--test-images", 0], "at least 1 image, not 0"),
    "percentile 0": (
        lambda f, t: [f, "--ranges", "percentile", "--percentile", 0],
        "above 0 and at most 100",
    ),
    "percentile 101": (
        lambda f, t: [f, "--ranges", "percentile", "--percentile", 101],
        "at most 100, not 101",
    ),
    "percentile of mse": (lambda f, t: [f, "--percentile", 99], "--ranges percentile"),
    "weights": (lambda f, t: [f, "--weights", "apot"], "unknown weight method 'apot'; known: dorefa"),
    "acts": (lambda f, t: [f, "--acts", "n2uq"], "unknown activation method 'n2uq'; known: dorefa"),
    "bits": (lambda f, t: [f, "-w", 17], "weight_bits must be 1..16"),
    "another model": (lambda f, t: [f, "--model", "mlp"], "a checkpoint of another model than mlp"),
    "device": (lambda f, t: [f, "--device", "abacus"], "device 'abacus' cannot be used here"),
    "recipe": (lambda f, t: [f, "--recipe", t / "no.toml"], "no.toml"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line(name: str, floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    make, said = BAD[name]
    before = snapshot(tmp_path)
    done = hwq("calibrate", *make(floating, tmp_path), "--out", tmp_path / "out")
    assert done.code == 2, done.out
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert said in done.err
    assert snapshot(tmp_path) == before


def test_a_quantised_source_is_refused(calibrated: Path, tmp_path: Path, hwq: Hwq) -> None:
    done = hwq("calibrate", calibrated, "--out", tmp_path / "out")
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "is quantised already; calibration starts from a float network" in done.err


def test_a_run_is_not_overwritten(floating: Path, calibrated: Path, hwq: Hwq) -> None:
    before = snapshot(calibrated)
    done = hwq("calibrate", floating, "--out", calibrated)
    assert done.code == 2
    assert "holds a run already" in done.err
    assert snapshot(calibrated) == before


@pytest.mark.parametrize("name", ["estimate_norms", "calibrate", "correct_biases", "save_checkpoint"])
def test_an_interruption_leaves_no_run(
    name: str, floating: Path, tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupt)
    few = ("--bn-estimate", "--images", 64, "--test-images", 20)
    done = hwq("calibrate", floating, *few, "--out", tmp_path / "out")
    assert (done.code, done.err.strip()) == (130, "error: interrupted")
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()
    monkeypatch.undo()
    # what it left, if anything, does not stand in the way
    monkeypatch.setenv("COLUMNS", "100")
    assert hwq("calibrate", floating, *few, "--out", tmp_path / "out").code == 0
