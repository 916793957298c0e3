import pytest
import torch
from torch import nn

from synthgrad.lab.experiments.feed_forward import cnn, fcn


def test_layers_count_the_classifier_and_are_named_from_one():
    assert list(dict(fcn(4, 8, 4, 10).named_children())) == [
        *("flatten", "hidden1", "hidden2", "hidden3", "classifier")
    ]
    assert list(dict(cnn((1, 8, 8), 4, 4, 10).named_children())) == [
        *("hidden1", "hidden2", "hidden3", "flatten", "classifier")
    ]


@pytest.mark.parametrize(
    ("image", "sides"), [((1, 28, 28), (14, 7, 4)), ((3, 32, 32), (16, 8, 4)), ((1, 5, 9), None)]
)
def test_each_hidden_layer_of_a_cnn_halves_the_resolution(image, sides):
    model = cnn(image, 6, 4, 10)
    x = torch.rand(2, *image)
    assert model(x).shape == (2, 10)
    for position, side in enumerate(sides or (), start=1):
        x = model.get_submodule(f"hidden{position}")(x)
        assert x.shape == (2, 6, side, side)


def test_a_cnn_pools_the_maximum_first_and_averages_after():
    model = cnn((1, 8, 8), 4, 4, 10)
    pools = [model.get_submodule(f"hidden{position}.3") for position in (1, 2, 3)]
    assert [type(pool) for pool in pools] == [nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool2d]
    constant = torch.full((1, 4, 5, 5), 3.0)
    torch.testing.assert_close(pools[1](constant), torch.full((1, 4, 3, 3), 3.0))
