import torch

from compress.detectors.parts.settings import cell_centres
from compress.parts.atss import atss_match, paired_iou


def grid(sizes, strides, scale=4.0):
    centres, steps = cell_centres(sizes, strides)
    half = steps * scale / 2
    return centres, torch.cat((centres - half, centres + half), 1), [h * w for h, w in sizes]


def by_hand(centres, anchors, counts, boxes):
    """The published rule, one box at a time; returns location -> box."""
    taken: dict[int, tuple[float, int]] = {}
    for number, box in enumerate(boxes):
        middle, picks, start = (box[:2] + box[2:]) / 2, [], 0
        for count in counts:
            far = (centres[start : start + count] - middle).norm(dim=1)
            picks += (far.argsort()[:9] + start).tolist()
            start += count
        overlaps = torch.stack([paired_iou(anchors[p], box) for p in picks])
        threshold = overlaps.mean() + overlaps.std()
        for place, overlap in zip(picks, overlaps.tolist(), strict=True):
            x, y = centres[place]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= threshold and inside and overlap > taken.get(place, (-1, 0))[0]:
                taken[place] = (overlap, number)
    return {place: number for place, (_, number) in taken.items()}


def test_iou_of_half_covered_boxes_is_a_third():
    first, second = torch.tensor([0.0, 0, 4, 4]), torch.tensor([0.0, 2, 4, 6])
    assert paired_iou(first, second).item() == torch.tensor(8 / 24).item()


def test_matches_equal_those_of_the_rule_applied_box_by_box():
    centres, anchors, counts = grid([(16, 16), (8, 8), (4, 4)], [8, 16, 32])
    # odd offsets: no two centres are equally far from a box
    corner = torch.rand(12, 2) * 70 + torch.rand(12, 2)
    boxes = torch.cat((corner, corner + torch.rand(12, 2) * 40 + 8), dim=1)
    matched = atss_match(centres, anchors, counts, [boxes[:5], boxes[5:5], boxes[5:]])
    wanted = torch.full((3, sum(counts)), -1)
    for image, offset, chosen in ((0, 0, boxes[:5]), (2, 5, boxes[5:])):
        for place, number in by_hand(centres, anchors, counts, chosen).items():
            wanted[image, place] = number + offset
    assert torch.equal(matched, wanted)
    assert (matched[1] == -1).all()


def test_a_location_that_two_boxes_claim_goes_to_the_one_of_higher_overlap():
    centres, anchors, counts = grid([(4, 4)], [8], scale=2.0)
    # the anchor of cell (1, 1) is (4, 4, 20, 20); the second box is that anchor
    boxes = torch.tensor([[4.0, 4, 20, 24], [4.0, 4, 20, 20]])
    matched = atss_match(centres, anchors, counts, [boxes])[0]
    assert matched[5].item() == 1
    assert atss_match(centres, anchors, counts, [boxes.flip(0)])[0][5].item() == 0


def test_a_map_of_one_cell_can_be_positive():
    centres, anchors, counts = grid([(1, 1)], [32], scale=1.0)
    matched = atss_match(centres, anchors, counts, [torch.tensor([[4.0, 4, 30, 30]])])
    assert matched.tolist() == [[0]]


def test_a_batch_without_boxes_matches_nothing():
    centres, anchors, counts = grid([(2, 2)], [8])
    assert (atss_match(centres, anchors, counts, [torch.zeros(0, 4)] * 2) == -1).all()
    assert atss_match(centres, anchors, counts, []).shape == (0, 4)
