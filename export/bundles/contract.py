"""The contract of pre- and post-processing in words, exact enough to write a client from."""

from collections.abc import Collection, Mapping

from export.artifact.manifest import InputSpec, Manifest
from export.artifact.preprocessing import UNSTATED, VERSION
from export.errors import printable


def contract(artifacts: Mapping[str, Manifest]) -> str:
    """Return the sections of a bundle's README on input, output and AP.

    Args:
        artifacts: name and sidecar of each artifact; they are one model in several precisions.
    """
    first = next(iter(artifacts.values()))
    spec = first.input
    height, width = spec.height, spec.width
    tensor = printable(spec.name).replace("`", "'")
    unstated = [name for name, one in artifacts.items() if one.input.preprocessing is None]
    note = f"\nNote on {', '.join(unstated)}: {UNSTATED}.\n" if unstated else ""
    return f"""## From picture to tensor (preprocessing version {VERSION})

Evaluation, calibration, `predict` and `bench` do exactly this; `model.json` states it under
`input.preprocessing`. Here w x h is the size of the picture, upright.
{note}
1. Decode the whole picture, as Pillow does by default; a JPEG at its full size (no `draft`, no
   scaled decoding). An animation gives its first frame.
2. Turn it upright as EXIF's orientation says (`ImageOps.exif_transpose`); none, or one that cannot
   be read, is upright.
3. Make it 8-bit RGB with Pillow's `convert("RGB")`: grey is repeated, a palette is looked up.
   Transparency (alpha, or a transparent colour) is laid on black before that:
   `Image.alpha_composite(black, picture.convert("RGBA"))`. {_wide(spec)}
4. Let scale = min({width} / w, {height} / h) in double precision, also where that enlarges. The new
   size is new_w = min({width}, max(1, round(w * scale))) by
   new_h = min({height}, max(1, round(h * scale))); halves round to even, as in Python.
5. Unless it has that size already: `resize((new_w, new_h), Image.Resampling.BILINEAR)`. This is a
   triangle filter with antialiasing (its width grows with the shrink factor), horizontally and
   then vertically, each pass rounded and clipped to uint8. No `reducing_gap`.
6. Lay it at the top left of a canvas, uint8 RGB of height {height} and width {width}; every value
   that it does not cover is {spec.fill}.
7. The input `{tensor}` is a batch of canvases. Where the table above says float32:
   (B, 3, {height}, {width}), channels first, every value divided by 255 in float32. Where it says
   uint8: (B, {height}, {width}, 3), the canvases as they are. Mean and standard deviation are in
   the graph. B is what the graph states; where it states a name, any number.

A frame of a video, as RGB, begins at step 4. From `golden/photograph.png` these steps give the
canvas `golden/input.npy`, to the byte.

## From outputs to boxes

The graph gives `boxes` (B, P, 4) xyxy in pixels of the canvas, `scores` (B, P) and `labels` (B, P)
from 0, in the order of `labels.txt`; a score of -1 is padding. For each picture:

1. Keep scores above {first.score_threshold:g} (`score` in `thresholds.json`), not equal to it.
2. Sort them, best first; equal scores stay in the order of the output.
3. {_suppression(artifacts.values())}
4. Keep the first {first.nms.max_detections}.
5. Divide x by new_w / w and y by new_h / h, clip x to 0..w and y to 0..h, and drop boxes that have
   no width or no height left.

## Measure AP

The same, with scores above {first.evaluation_score_threshold:g} (`evaluation_score`) in step 1.
Of a COCO result, `bbox` is [x1, y1, x2 - x1, y2 - y1] rounded to 3 decimals, `score` is rounded to
7, and `category_id` is the label's entry in `category_ids` of `model.json`. `COCOeval` of
pycocotools with its defaults then gives the AP of the report. Boxes of the annotations are those of
the upright picture: where they give the size that a picture has before EXIF turns it, turn its
boxes as the picture.
"""


def _suppression(artifacts: Collection[Manifest]) -> str:
    """Say which boxes NMS drops, or that there is none."""
    if all(one.nms.mode == "none" for one in artifacts):
        return """Drop none: the model gives one box per object, so boxes that overlap are
   different objects. Do not run NMS."""
    needed = [one.nms for one in artifacts if one.nms.mode != "none"]
    iou = min(needed, key=lambda nms: nms.mode != "host").iou  # the client's, if it does any
    return f"""Where the table above says client for NMS: from the best score to the worst, drop a
   box that overlaps a kept one of the same label by an IoU above {iou:g}. Nothing is added to
   widths and heights, and a box without area overlaps nothing. Elsewhere it is done already, or
   not needed."""


def _wide(spec: InputSpec) -> str:
    """Say what becomes of 16-bit pictures."""
    if spec.bit_depth is None:
        bits = "where n is the fewest of 8, 10, 12, 14 and 16 bits that hold its largest value"
    else:
        bits = f"where n is {spec.bit_depth}; a picture with values from 2^n on is refused"
    return f"""Of a picture with
   16 bits a value, each value v becomes v >> (n - 8), {bits}.
   Pillow alone takes the high byte of colours, and grey it does not convert."""
