"""Two processes compute on levels of unequal channels what one does: terms and gradients.

The trainings of `test_processes.py` have small pictures, whose instances are all pooled from the
finest level; here every level has some, and in one case a process has none at all.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from compress.batch import Batch
from compress.detector import Outputs, TowerChannels
from tests.compress.losses.scene import (
    LARGE_PX,
    ROIS_PER_PICTURE,
    change_queries,
    leaves,
    make_batch,
    make_outputs,
    make_spec,
    reach_every_level,
)
from tests.contracts.together import LOSS
from tests.processes import start_each

STUDENT = make_spec(
    channels=(3, 5, 6), tower_channels=TowerChannels((3, 4, 5), (2, 3, 4)), query_channels=5
)
TEACHER = make_spec(channels=(4, 8, 6), tower_channels=TowerChannels((4, 6, 5), (2, 4, 6)))
PROVIDED = {
    **dict.fromkeys(("gdetkd maps", "kddetr dense", "pseudo_labels dense"), ("features", "dense")),
    "pseudo_labels rois": ("features", "dense", "rois"),
}
SHARES = ((0, 1), (1, 3))  # pictures of each process: from, to
SIZES = [[[0.0, 0.0, side, side] for side in (60.0, 150.0, 240.0, 460.0)]]
BOXES = {"objects": [*SIZES, SIZES[0][2:], []], "none in one": [[], *SIZES, SIZES[0][:3]]}
LOSSES: dict[str, dict[str, Any]] = {
    "gid": {"type": "gid", "nms_iou": 1},
    "gid image": {"type": "gid", "nms_iou": 1, "relation_scope": "image"},
    "icd": {"type": "icd", "delay_steps": 0},
    "drkd": {"type": "drkd"},
    "crosskd": {"type": "crosskd"},
    "gdetkd": {"type": "gdetkd"},
    "gdetkd maps": {"type": "gdetkd"},
    "kddetr": {"type": "kddetr", "random": 3},
    "kddetr dense": {"type": "kddetr"},
    "pseudo_labels": {"type": "pseudo_labels"},
    "pseudo_labels dense": {"type": "pseudo_labels"},
    "pseudo_labels rois": {"type": "pseudo_labels"},
}
CASES = [(loss, boxes) for loss in LOSSES for boxes in BOXES]


@dataclass(frozen=True)
class Found:
    """Terms by name, gradients of the loss's parameters and of the student's maps in use.

    Of losses on answers they are those of the decoder's memory, the logits and the deltas.
    """

    terms: dict[str, Tensor]
    learned: dict[str, Tensor]
    maps: list[Tensor]


def share_of(outputs: Outputs, first: int, last: int) -> Outputs:
    """Return the outputs of some pictures; leaves stay those of all."""
    dense, rois, towers = outputs.dense, outputs.rois, outputs.towers
    assert dense is not None
    assert rois is not None
    assert towers is not None
    rows = slice(first * ROIS_PER_PICTURE, last * ROIS_PER_PICTURE)
    assert rois.embeddings is not None
    return Outputs(
        tuple(level[first:last] for level in outputs.features),
        dense=replace(
            dense,
            class_logits=dense.class_logits[first:last],
            deltas=dense.deltas[first:last],
            boxes=dense.boxes[first:last],
            dfl_logits=None if dense.dfl_logits is None else dense.dfl_logits[first:last],
        ),
        rois=replace(
            rois,
            boxes=rois.boxes[first:last],
            labels=rois.labels[rows],
            class_logits=rois.class_logits[rows],
            deltas=rois.deltas[rows],
            target_deltas=None,
            embeddings=rois.embeddings[rows],
            predicted=None,
        ),
        towers=replace(
            towers,
            class_maps=tuple(tuple(m[first:last] for m in layer) for layer in towers.class_maps),
            box_maps=tuple(tuple(m[first:last] for m in layer) for layer in towers.box_maps),
        ),
        queries=change_queries(outputs, lambda tensor: tensor[first:last]),
    )


def batch_share(batch: Batch, first: int, last: int) -> Batch:
    return Batch(
        batch.images[first:last],
        batch.targets[first:last],
        batch.sizes[first:last],
        batch.image_ids[first:last],
        last - first,
        batch.taught[first:last],
    )


def found_on(loss_name: str, boxes: str, first: int, last: int) -> Found:
    """Compute one step of a loss on some of the pictures."""
    student, teacher = STUDENT, TEACHER
    if loss_name in PROVIDED:
        student = replace(student, provides=frozenset[Any](PROVIDED[loss_name]))
    if loss_name == "gdetkd maps":
        teacher = replace(teacher, provides=frozenset[Any](PROVIDED[loss_name]))
    config = LOSS.validate_python(LOSSES[loss_name])
    assert config.check(student, teacher) == []
    torch.manual_seed(0)
    loss = config.build(student, teacher)
    whole = make_outputs(student, 3, 0, LARGE_PX)
    own, other = reach_every_level(whole, make_outputs(teacher, 3, 1, LARGE_PX), each=3)
    batch = batch_share(make_batch(BOXES[boxes], LARGE_PX), first, last)
    terms = loss(share_of(own, first, last), share_of(other, first, last), batch)
    torch.stack(list(terms.values())).sum().backward()
    of_answers = loss_name.startswith(("kddetr", "pseudo_labels"))
    maps = [
        leaf.grad
        for leaf in leaves(whole)
        if leaf.grad is not None and (of_answers or leaf.ndim == 4)
    ]
    assert len(maps) >= (1 if of_answers else len(student.channels))
    return Found(
        {name: term.detach() for name, term in terms.items()},
        {name: torch.zeros(0) if p.grad is None else p.grad for name, p in loss.named_parameters()},
        maps,
    )


def one_of(rank: int, home: Path) -> None:
    """Compute every case as one of two processes; the first writes the means over both."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{home}/met", rank=rank, world_size=2)
    results = {}
    for case in CASES:
        found = found_on(*case, *SHARES[rank])
        for tensor in (*found.terms.values(), *found.learned.values(), *found.maps):
            dist.all_reduce(tensor)
            tensor /= 2
        results[case] = (found.terms, found.learned, found.maps)
    if rank == 0:
        torch.save(results, home / "found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Found]:
    home = tmp_path_factory.mktemp("levels")
    start_each(one_of, home)
    return {case: Found(*parts) for case, parts in torch.load(home / "found.pt").items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_two_processes_find_what_one_finds(
    case: tuple[str, str], by_two: dict[tuple[str, str], Found]
) -> None:
    one, two = found_on(*case, 0, 3), by_two[case]
    assert all(term > 0 for name, term in one.terms.items() if "response" not in name)
    for name, term in one.terms.items():
        torch.testing.assert_close(two.terms[name], term, rtol=1e-5, atol=1e-7, msg=name)
    # some gradients are sums that cancel: of a bias that moves all instances, of the keys' bias
    scale = max((float(gradient.abs().max()) for gradient in one.learned.values()), default=0.0)
    for name, gradient in one.learned.items():
        torch.testing.assert_close(
            two.learned[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name
        )
    for found, expected in zip(two.maps, one.maps, strict=True):
        assert expected.any()
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )
