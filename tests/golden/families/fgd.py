"""FGD on one level: masks, attentions, the four terms and the student's gradient."""

from compress.detector import DetectorSpec
from compress.losses.fgd import Fgd, FgdConfig, FgdLevel, attention, scale_masks
from tests.golden.case import (
    Case,
    Deviation,
    UnreadableCaseError,
    backward,
    gradient,
    loss,
    tensor,
    weights,
)

TERMS = {  # ours -> the vector's, which are not weighted
    "foreground": "out_fg",
    "background": "out_bg",
    "attention": "out_att",
    "relation": "out_rela",
}


def compare(case: Case) -> list[Deviation]:
    student, teacher = case.leaf("in_student"), case.tensor("in_teacher")
    boxes, sizes = case.boxes(student.shape[0]), case.tensor("in_img_hw")
    module = _build(case, student.shape[1], teacher.shape[1])
    level = module.levels[0]
    assert isinstance(level, FgdLevel)
    terms = module.compare([(student, teacher)], boxes, [sizes])
    total = backward(terms)

    masks = scale_masks(boxes, sizes, (teacher.shape[2], teacher.shape[3]))
    found = [
        weights(case, key, mask)
        for key, mask in zip(("out_mask_fg", "out_mask_bg"), masks, strict=True)
        if key in case
    ]
    for side, maps in (("s", level.align(student)), ("t", teacher)):
        for form, ours in zip(
            ("spatial", "channel"), attention(maps, level.temperature), strict=True
        ):
            if f"out_{form}_att_{side}" in case:
                found.append(tensor(case, f"out_{form}_att_{side}", ours))
    bare = {
        term: total / student.shape[0]
        for term, total in level(student, teacher, *masks)._asdict().items()
    }
    found += [
        loss(case, theirs, bare[ours])
        for ours, theirs in TERMS.items()
        if theirs in case and not (ours == "relation" and level.student_context is None)
    ]
    return [
        *found,
        loss(case, "out_total", total),
        gradient(case, "grad_student", student),
    ]


def _build(case: Case, student: int, teacher: int) -> Fgd:
    weights = {name: name for name in ("alpha", "beta", "gamma", "lam")}
    config = case.settings(FgdConfig, {"type": "fgd"}, temperature="temp", **weights)
    specs = [_spec(channels) for channels in (student, teacher)]
    problems = config.check(*specs)
    if problems:
        raise UnreadableCaseError(f"{case.name}: {'; '.join(problems)}")
    module = config.build(*specs)
    level = module.levels[0]
    assert isinstance(level, FgdLevel)
    case.load(level.align, "w_align")
    for side, context in (("s", level.student_context), ("t", level.teacher_context)):
        if context is not None:
            case.load(context.mask, f"w_conv_mask_{side}")
            case.load(context.transform, f"w_channel_add_conv_{side}")
    return module


def _spec(channels: int) -> DetectorSpec:
    return DetectorSpec(
        family="golden",
        num_classes=1,
        channels=(channels,),
        strides=(8,),  # sizes are stated, so it does not matter
        backbone_channels=(),
        backbone_strides=(),
        provides=frozenset({"features"}),
    )
