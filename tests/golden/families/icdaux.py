"""ICD's auxiliary terms: the code of a centre, the predictor, both errors, their gradient."""

import torch

from compress.losses.parts.icd_decoder import Perceptron, auxiliary_losses
from compress.losses.parts.icd_queries import centre_code
from tests.golden.case import Case, Deviation, gradient, loss, tensor


def compare(case: Case) -> list[Deviation]:
    decoded = case.leaf("in_decoded")  # (k, B, D)
    width = decoded.shape[-1]
    predict = Perceptron(width, case.tensor("w_layers_0_weight").shape[0], 5)
    case.load(predict, "w")
    confidence, box = auxiliary_losses(
        predict(decoded.transpose(0, 1)),
        case.tensor("in_instance_real") > 0,
        ~case.tensor("in_instance_absent"),
        case.tensor("in_offsets"),
    )
    total = torch.stack([case.meta["hyper"].get("conf_weight", 1.0) * confidence, box]).sum()
    total.backward()
    return [
        tensor(case, "out_centre_embed", centre_code(case.tensor("in_centres"))),
        loss(case, "out_conf", confidence),
        loss(case, "out_reg", box),
        loss(case, "out_total", total),
        gradient(case, "grad_decoded", decoded),
    ]
