"""Convert a detector's outputs to float32, in which the losses compute."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from compress.detector import Dense, Knowledge, Outputs, Queries, Rois, Towers

HALF_TYPES = (torch.float16, torch.bfloat16)


def in_full_precision(outputs: Outputs, needs: frozenset[Knowledge], *, detach: bool) -> Outputs:
    """Return the `needs` of `outputs`, half-precision tensors as float32, detached on request."""

    def raised(tensor: Tensor) -> Tensor:
        tensor = tensor.detach() if detach else tensor
        return tensor.float() if tensor.dtype in HALF_TYPES else tensor

    asks_dense = not needs.isdisjoint({"dense", "dfl"})
    towers = outputs.towers if "towers" in needs else None
    queries = outputs.queries if "queries" in needs else None
    return Outputs(
        features=tuple(raised(level) for level in outputs.features),
        backbone=tuple(raised(stage) for stage in outputs.backbone) if "backbone" in needs else (),
        anchors=outputs.anchors if "anchors" in needs else (),
        dense=_raise_dense(outputs.dense, raised) if asks_dense and outputs.dense else None,
        towers=_raise_towers(towers, raised) if towers is not None else None,
        rois=_raise_rois(outputs.rois, raised) if "rois" in needs and outputs.rois else None,
        queries=None if queries is None else _raise_queries(queries, raised, detach=detach),
    )


def _raise_dense(dense: Dense, raised: Callable[[Tensor], Tensor]) -> Dense:
    return replace(
        dense,
        class_logits=raised(dense.class_logits),
        deltas=raised(dense.deltas),
        boxes=raised(dense.boxes),
        dfl_logits=None if dense.dfl_logits is None else raised(dense.dfl_logits),
        background_logits=(
            None if dense.background_logits is None else raised(dense.background_logits)
        ),
        one_to_one=None if dense.one_to_one is None else _raise_dense(dense.one_to_one, raised),
    )


def _raise_towers(towers: Towers, raised: Callable[[Tensor], Tensor]) -> Towers:
    def all_of(layers: tuple[tuple[Tensor, ...], ...]) -> tuple[tuple[Tensor, ...], ...]:
        return tuple(tuple(raised(level) for level in layer) for layer in layers)

    return replace(towers, class_maps=all_of(towers.class_maps), box_maps=all_of(towers.box_maps))


def _raise_queries(
    queries: Queries, raised: Callable[[Tensor], Tensor], *, detach: bool
) -> Queries:
    def probe(content: Tensor, references: Tensor) -> Queries:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            return _raise_queries(queries.probe(content, references), raised, detach=detach)

    return Queries(
        raised(queries.content),
        raised(queries.references),
        raised(queries.class_logits),
        raised(queries.boxes),
        probe,
        queries.match,
    )


def _raise_rois(rois: Rois, raised: Callable[[Tensor], Tensor]) -> Rois:
    embeddings, predicted = rois.embeddings, rois.predicted
    return replace(
        rois,
        class_logits=raised(rois.class_logits),
        deltas=raised(rois.deltas),
        embeddings=None if embeddings is None else raised(embeddings),
        predicted=None if predicted is None else raised(predicted),
    )
