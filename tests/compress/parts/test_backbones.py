import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from compress.parts.backbones import IMAGENET_MEAN, SlimResNetConfig, build_backbone
from compress.parts.norm import group_norm
from export.errors import RecipeError

ALL = (4, 8, 16, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
        ("mobilenet_v3_small", (16, 24, 48, 576)),
        ("mobilenet_v3_large", (24, 40, 112, 960)),
        (SlimResNetConfig(widths=(16, 16, 32, 48)), (16, 16, 32, 48)),
    ],
)
def test_stages_have_the_channels_and_strides_they_say(name, channels):
    backbone = build_backbone(name, ALL, "batch").eval()
    with torch.no_grad():
        stages = backbone(torch.rand(1, 3, 64, 96))
    assert backbone.channels == tuple(stage.shape[1] for stage in stages) == channels
    assert [(64 // s.shape[2], 96 // s.shape[3]) for s in stages] == [(s, s) for s in ALL]


def test_stages_beyond_the_coarsest_wanted_are_not_built():
    backbone = build_backbone("resnet18", (8, 16), "batch")
    assert backbone.channels == (128, 256)
    assert not any("layer4" in name for name, _ in backbone.named_parameters())


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("batch", nn.BatchNorm2d), ("frozen", FrozenBatchNorm2d), ("group", nn.GroupNorm)],
)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", SlimResNetConfig()])
def test_every_norm_of_a_backbone_is_the_one_asked_for(name, norm, kind):
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d, nn.GroupNorm)
    found = {type(m) for m in build_backbone(name, ALL, norm).modules() if isinstance(m, kinds)}
    assert found == {kind}


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (96, 24), (16, 4), (3, 1), (7, 1)])
def test_groups_have_at_least_four_channels(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_the_picture_is_normalised_inside():
    backbone = build_backbone(SlimResNetConfig(), (4,), "batch").eval()
    seen = []
    backbone.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    assert seen[0].abs().max() < 1e-6


def test_a_slim_resnet_keeps_the_scale_of_its_input_at_the_start():
    stages = build_backbone(SlimResNetConfig(blocks=(2, 2, 2, 2)), ALL, "batch")(
        torch.rand(4, 3, 64, 64)
    )
    for stage in stages:
        assert 0.2 < stage.std() < 5


@pytest.mark.slow  # importing timm takes seconds
@pytest.mark.filterwarnings("ignore")
class TestTimm:
    @pytest.fixture(autouse=True)
    def _timm(self):
        pytest.importorskip("timm")

    def test_a_model_of_timm_gives_the_stages_wanted(self):
        backbone = build_backbone("timm/resnet10t", (8, 16, 32), "frozen").eval()
        stages = backbone(torch.rand(1, 3, 64, 64))
        assert backbone.channels == tuple(s.shape[1] for s in stages) == (128, 256, 512)
        assert [64 // s.shape[2] for s in stages] == [8, 16, 32]
        assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())

    def test_an_unknown_model_is_refused_with_the_nearest_names(self):
        with pytest.raises(RecipeError, match=r"timm/resnet18"):
            build_backbone("timm/resnet18x", (8,), "batch")

    def test_a_model_without_the_strides_is_refused(self):
        with pytest.raises(RecipeError, match=r"strides \[4, 8\] are needed"):
            build_backbone("timm/vit_tiny_patch16_224", (4, 8, 16), "batch")
