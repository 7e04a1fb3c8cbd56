import torch

from compress.losses.parts.distances import relative_distances


def test_distances_are_divided_by_their_mean_off_the_diagonal():
    # 0, 1 and 3 on a line: distances 1, 3 and 2, their mean 2.
    found = relative_distances(torch.tensor([[0.0], [1.0], [3.0]]))
    torch.testing.assert_close(
        found, torch.tensor([[0.0, 0.5, 1.5], [0.5, 0.0, 1.0], [1.5, 1.0, 0.0]])
    )


def test_a_single_vector_has_no_distance_and_a_finite_gradient():
    vector = torch.ones(1, 3, requires_grad=True)
    found = relative_distances(vector)
    found.sum().backward()
    assert found.tolist() == [[0.0]]
    assert vector.grad is not None
    assert vector.grad.tolist() == [[0.0] * 3]
