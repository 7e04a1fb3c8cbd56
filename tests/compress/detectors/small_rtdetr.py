"""The RT-DETR of the tests: the package's layers in the package's order, with narrower ones.

One of 33 million weights takes ten seconds for a step on a processor. What is tested of ours, and
how it calls the package, does not depend on the widths; tests of the package's own files, names and
numbers build the real one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from compress.detectors.ultralytics_parts import package

# Of the package's rtdetr-l: same layers and same connections; 2 convolutions in a block, not 6,
# and 3 layers in the decoder, not 6.
DESCRIPTION = """
nc: 80
scales: {l: [1.00, 1.00, 1024]}
backbone:
  - [-1, 1, HGStem, [16, 32]]
  - [-1, 2, HGBlock, [16, 32, 3]]
  - [-1, 1, DWConv, [32, 3, 2, 1, False]]
  - [-1, 2, HGBlock, [16, 48, 3]]
  - [-1, 1, DWConv, [48, 3, 2, 1, False]]
  - [-1, 2, HGBlock, [32, 64, 5, True, False]]
  - [-1, 2, HGBlock, [32, 64, 5, True, True]]
  - [-1, 2, HGBlock, [32, 64, 5, True, True]]
  - [-1, 1, DWConv, [64, 3, 2, 1, False]]
  - [-1, 2, HGBlock, [32, 96, 5, True, False]]
head:
  - [-1, 1, Conv, [64, 1, 1, None, 1, 1, False]]
  - [-1, 1, AIFI, [128, 4]]
  - [-1, 1, Conv, [64, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [7, 1, Conv, [64, 1, 1, None, 1, 1, False]]
  - [[-2, -1], 1, Concat, [1]]
  - [-1, 1, RepC3, [64]]
  - [-1, 1, Conv, [64, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [3, 1, Conv, [64, 1, 1, None, 1, 1, False]]
  - [[-2, -1], 1, Concat, [1]]
  - [-1, 1, RepC3, [64]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1, 17], 1, Concat, [1]]
  - [-1, 1, RepC3, [64]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1, 12], 1, Concat, [1]]
  - [-1, 1, RepC3, [64]]
  - [[21, 24, 27], 1, RTDETRDecoder, [nc, 64, 300, 4, 4, 3, 128]]
"""


@contextmanager
def small_description() -> Iterator[None]:
    """Let the package's `rtdetr-l` be described as above, in this process."""
    described = package._settings_of

    def settings_of(of: package.Package, model: str) -> dict[str, Any]:
        if model != "rtdetr-l":
            return described(of, model)
        return {**yaml.safe_load(DESCRIPTION), "scale": "l"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "_settings_of", settings_of)
        yield
