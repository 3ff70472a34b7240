"""Parameter counts, exactly, and users' own networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from hwq.errors import InputError
from hwq.models import MODELS, VISION, build, located

COUNTS = {
    "toynet": 203_626,
    "resnet8": 75_290,
    "resnet8b": 78_042,
    "resnet20": 269_722,
    "resnet20b": 272_474,
    "resnet56": 853_018,
    "resnet56b": 855_770,
    "mobilenetv2": 2_383_050,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    assert sum(p.numel() for p in build(name, (32, 32, 3), 10).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_images(name: str) -> None:
    shape = (8, 8, 1) if name in ("digits", "mlp") else (32, 32, 3)
    model = build(name, shape, 7).eval()
    assert model(torch.zeros(2, shape[2], shape[0], shape[1])).shape == (2, 7)


VISION_COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "vgg11_bn": 132_868_840,
    "vgg16_bn": 138_365_992,
    "vgg16": 138_357_544,
    "torchvision:resnext50_32x4d": 25_028_904,
    "torchvision:alexnet": 61_100_840,
}


@pytest.mark.parametrize("name", VISION_COUNTS)
def test_parameter_counts_of_torchvision(name: str) -> None:
    """With 1,000 classes, images of 224; without memory or time for the weights."""
    with torch.device("meta"):
        model = build(name, (224, 224, 3), 1000)
    assert sum(p.numel() for p in model.parameters()) == VISION_COUNTS[name]
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_the_table_covers_every_short_name() -> None:
    assert set(VISION) <= set(VISION_COUNTS)


def test_torchvision_weights_load_by_their_names() -> None:
    with torch.device("meta"):
        ours, theirs = build("vgg11_bn", (224, 224, 3), 1000), torchvision.models.vgg11_bn()
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(("size", "inputs"), [(32, 512), (64, 2048), (224, 25088), (448, 25088)])
def test_vgg_reads_a_small_map_as_it_is(size: int, inputs: int) -> None:
    with torch.device("meta"):
        model = build("vgg11_bn", (size, size, 3), 7)
    assert model.classifier[0].in_features == inputs
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)


def test_a_map_of_the_pools_size_needs_no_pool() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(num_classes=5).eval()
    ours = build("torchvision:alexnet", (224, 224, 3), 5).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet18", (64, 64, 1), "takes images of 3 channels, the data has 1"),
        ("torchvision:resnet19", (64, 64, 3), "no classification network 'resnet19'"),
        ("torchvision:fasterrcnn_resnet50_fpn", (64, 64, 3), "no classification network"),
        ("vgg11", (64, 64, 3), "known: .*resnet18.*torchvision:NAME"),
        ("vgg11_bn", (16, 16, 3), "does not take images of 16 x 16"),
    ],
)
def test_what_torchvision_cannot_give(name: str, shape: tuple[int, int, int], message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build(name, shape, 10)


@pytest.mark.parametrize("name", ["resnet18", "torchvision:vgg11", "toynet", "odd:name"])
def test_names_that_are_no_files(name: str) -> None:
    assert located(name, Path("/base")) == name


def test_located_files() -> None:
    assert located("net.py:make", Path("/base")) == "/base/net.py:make"
    assert located("/a/net.py:make", Path("/base")) == "/a/net.py:make"
    assert located("net.py:make") == f"{Path.cwd() / 'net.py'}:make"


def test_resnet20_has_the_public_layer_names() -> None:
    names = set(build("resnet20", (32, 32, 3), 10).state_dict())
    assert {
        "conv1.weight",
        "bn1.bias",
        "layer3.2.conv2.weight",
        "layer2.0.bn1.running_mean",
        "linear.bias",
    } < names
    assert not any("shortcut" in n for n in names)


def test_users_own_factory(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("WIDTH = 4\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom parts import WIDTH\n"
        "def make(classes, channels=3):\n    return nn.Sequential(nn.Conv2d(channels, WIDTH, 1),"
        " nn.Flatten(), nn.Linear(WIDTH * 4, classes))\n"
        "def bad():\n    raise RuntimeError('no luck')\n"
        "def number():\n    return 3\n"
    )
    model = build(f"{tmp_path / 'net.py'}:make", (2, 2, 1), 6)
    assert model(torch.zeros(1, 1, 2, 2)).shape == (1, 6)
    for factory, message in (("bad", "no luck"), ("number", "not a torch"), ("none", "no function")):
        with pytest.raises(InputError, match=message):
            build(f"{tmp_path / 'net.py'}:{factory}", (2, 2, 1), 6)
    with pytest.raises(InputError, match="no such file"):
        build(f"{tmp_path / 'gone.py'}:make", (2, 2, 1), 6)
    with pytest.raises(InputError, match="known: digits"):
        build("resnet21", (32, 32, 3), 10)
