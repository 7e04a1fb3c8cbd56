"""Print how far we are from every vector: `python -m tests.golden.table`."""

import sys

from tests.golden.case import GRADIENT_LIMIT, read_case
from tests.golden.families import compare
from tests.golden.test_golden import VECTORS, family_of


def main() -> None:
    lines = ["| vector | quantities | exact ones | worst loss | worst tensor | worst gradient |"]
    lines.append("|---|---|---|---|---|---|")
    for path in VECTORS:
        case = read_case(path)
        deviations = compare(family_of(path), case)
        exact = [d for d in deviations if d.limit == 0]
        gradients = [d.error for d in deviations if d.limit == GRADIENT_LIMIT]
        floats = [d for d in deviations if 0 < d.limit < GRADIENT_LIMIT]
        scalars = [
            d.error for d in floats if case.arrays[d.quantity.removesuffix(" shape")].ndim == 0
        ]
        tensors = [
            d.error for d in floats if case.arrays[d.quantity.removesuffix(" shape")].ndim > 0
        ]
        wrong = sum(d.error > 0 for d in exact)
        worst = " | ".join(f"{max(e):.1e}" if e else "-" for e in (scalars, tensors, gradients))
        matched = f"{len(exact) - wrong}/{len(exact)}"
        lines.append(f"| {path.stem} | {len(deviations)} | {matched} | {worst} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
