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
    """Integrated Grad-CAM, sum_c w_c (A_nc(x) - A_nc(0)), w the mean of Grad-CAM's weights at a x, 0 < a < 1, in 16 steps.

    Source: Sattarzadeh et al., Integrated Grad-CAM (arXiv 2102.07805), without the final ReLU. The blank image is zero, the
    mean colour of the training images; the integrand is evaluated at the middle of each step.

    Example:
        >>> from concept_cam import world
        >>> plate, localizer = world.draw_species("ember finch"), world.localizer(method="integrated_grad_cam")
        >>> localizer(plate.image, "ember finch", "frost finch").map.shape
        torch.Size([12, 12])
    """
    gained = trace.tokens - trace.again(0.0 * trace.pixels).tokens

    def weighted(gradient: TokenGradient) -> Float[Tensor, "K B rows cols"]:
        maps = torch.einsum("kbd,bnd->kbn", gradient.mean(), gained)
        return maps.reshape(*maps.shape[:2], trace.layout.rows, trace.layout.cols)

    return torch.stack([trace.again((step + 0.5) / _STEPS * trace.pixels).matrix(weighted) for step in range(_STEPS)]).mean(0)
