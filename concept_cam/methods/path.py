"""Along a path: gradients are taken on the way from a blank image to the whole one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from concept_cam.gradients import TokenGradient, Trace
from concept_cam.methods.method import FieldMethod

_STEPS = 16


@FieldMethod
def integrated_grad_cam(trace: Trace) -> Float[Tensor, "B N E"]:
    """sum_c w_c (A_nc(x) - A_nc(0)), w being Grad-CAM's weights averaged over the images a x, 0 < a < 1, in 16 steps.

    Source: Sattarzadeh et al., Integrated Grad-CAM (arXiv 2102.07805), without the final ReLU. The blank image is zero, the
    mean colour of the images that the model was trained on; the sum is taken at the middle of each step.
    """
    gained = trace.tokens - trace.again(0.0 * trace.pixels).tokens

    def weighted(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
        maps = torch.einsum("kbd,bnd->kbn", gradient.mean(), gained)
        return maps.reshape(*maps.shape[:2], trace.layout.rows, trace.layout.cols)

    return torch.stack([trace.again((step + 0.5) / _STEPS * trace.pixels).matrix(weighted) for step in range(_STEPS)]).mean(0)
