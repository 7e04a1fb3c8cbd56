"""Weights whose normalisation is folded away keep what they know when they are trained further."""

import copy
from typing import Any

import torch
from torch import nn

from compress.parts.batch_norm import folded_layers, state_statistics


def network() -> nn.Sequential:
    """Two convolutions, each with a BatchNorm that learnt something."""
    torch.manual_seed(0)
    layers = []
    for ins, outs in ((3, 6), (6, 4)):
        norm = nn.BatchNorm2d(outs, eps=1e-3)
        norm.running_mean = torch.randn(outs)
        norm.running_var = torch.rand(outs) + 0.5
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        layers += [nn.Conv2d(ins, outs, 3), norm, nn.SiLU()]
    return nn.Sequential(*layers).eval()


def folded(model: nn.Sequential) -> nn.Sequential:
    """The same function with BatchNorm layers that add a bias alone."""
    model = copy.deepcopy(model)
    conv: Any
    norm: Any
    for conv, norm in ((model[0], model[1]), (model[3], model[4])):
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        with torch.no_grad():
            conv.weight.mul_(slope[:, None, None, None])
            norm.bias.copy_(norm.bias + slope * (conv.bias - norm.running_mean))
            conv.bias.zero_()
            norm.weight.fill_(1)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
    return model


PICTURES = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_only_layers_that_add_a_bias_alone_are_folded():
    assert folded_layers(network()) == []
    assert len(folded_layers(folded(network()))) == 2
    assert folded_layers(nn.Sequential(nn.BatchNorm2d(3))) == []  # no training has begun


def test_stated_statistics_change_nothing_in_eval_mode_and_keep_train_mode_near_it():
    known, model = network(), folded(network())
    wanted = known(PICTURES)
    torch.testing.assert_close(model(PICTURES), wanted, rtol=1e-4, atol=1e-5)
    lost = (model.train()(PICTURES) - wanted).abs().mean()
    model = folded(network())
    state_statistics(model, folded_layers(model), [lambda: model(PICTURES)])
    assert not model.training
    torch.testing.assert_close(model(PICTURES), wanted, rtol=1e-4, atol=1e-5)
    kept = (model.train()(PICTURES) - wanted).abs().mean()
    assert kept < 0.01 * lost
    assert folded_layers(model) == []


def test_several_passes_give_the_statistics_of_all_pictures():
    whole, parts = folded(network()), folded(network())
    state_statistics(whole, folded_layers(whole), [lambda: whole(PICTURES)])
    passes = [lambda part=part: parts(part) for part in PICTURES.split(5)]
    state_statistics(parts, folded_layers(parts), passes)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-4, atol=1e-5)
