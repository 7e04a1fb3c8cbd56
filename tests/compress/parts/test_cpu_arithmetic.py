import pytest
import torch
from torch import nn

from compress.parts.cpu_arithmetic import log_softmax, softmax


@pytest.mark.parametrize("count", [1, 2, 9, 16, 17])
def test_values_and_gradients_are_those_of_torch(count: int) -> None:
    torch.manual_seed(0)
    for ours, theirs in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
        own = torch.randn(3, 5, count, dtype=torch.float64, requires_grad=True)
        other = own.detach().clone().requires_grad_()
        weight = torch.randn(3, 5, count, dtype=torch.float64)
        found, expected = ours(own), theirs(other, -1)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(own.grad, other.grad)


def test_an_exported_graph_has_one_softmax_and_no_copies() -> None:
    class Scores(nn.Module):
        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            return softmax(logits)

    program = torch.export.export(Scores(), (torch.randn(2, 9),))
    names = [node.target.__name__ for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["softmax.int"]
