"""A linear probe: logistic regression on the frozen embeddings of a model, which then stands where texts stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from concept_cam.concepts import ConceptBank
from concept_cam.datasets import Dataset
from concept_cam.errors import OptionError
from concept_cam.evaluation.embeddings import embeddings_of
from concept_cam.localizer import Localizer

DECAY = 1e-6
"""Hardly any: unit vectors need large rows."""

_STEPS = 200


def fit_probe(
    features: Float[Tensor, "N E"], labels: Int[Tensor, " N"], classes: tuple[str, ...], decay: float = DECAY
) -> ConceptBank:
    """The rows and biases that minimise mean cross-entropy + decay / 2 * |rows|^2, by L-BFGS.

    The problem is convex, so that neither seed nor step size is of consequence; the gradient is X^T (p - y) / N.

    Args:
        features: embeddings; those of a dual encoder are unit vectors.
        labels: indices of classes; each class has at least one example.
        classes: the names.
        decay: how small rows are kept; the smaller, the more they stress what tells the nearest classes apart.

    Raises:
        OptionError: a class has no example.

    Example:
        >>> import torch
        >>> probe = fit_probe(torch.tensor([[-1.0], [2.0]]), torch.tensor([0, 1]), ("cold", "warm"))
        >>> probe.scores(torch.tensor([[2.0]])).argmax()
        tensor(1)
    """
    missing = sorted(set(range(len(classes))) - set(labels.tolist()))
    if missing:
        names = ", ".join(classes[i] for i in missing[:5])
        raise OptionError(f"A probe learns from examples of every class; there is none of {names}.")
    inputs = F.pad(features.double(), (0, 1), value=1.0)
    truth = F.one_hot(labels, len(classes)).double()
    rows = torch.zeros(len(classes), inputs.shape[1], dtype=torch.float64, device="cpu")
    kept = torch.ones_like(rows)
    kept[:, -1] = 0  # A bias is not held small.
    solver = torch.optim.LBFGS([rows], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def loss() -> float:
        logits = inputs @ rows.T
        rows.grad = (logits.softmax(1) - truth).T @ inputs / len(inputs) + decay * kept * rows
        fit = (logits.logsumexp(1) - (logits * truth).sum(1)).mean()
        return float(fit + 0.5 * decay * (kept * rows).square().sum())

    solver.step(loss)
    weights = rows.to(features.dtype)
    return ConceptBank(classes, weights[:, :-1].contiguous(), weights[:, -1].contiguous())


def features_of(
    localizer: Localizer, data: Dataset, folder: Path | None = None, about: Mapping[str, Any] | None = None
) -> tuple[Float[Tensor, "N E"], Int[Tensor, " N"]]:
    """Embeddings of the training examples of a data set and the indices of their labels, on the CPU.

    Images that cannot be read, and labels that are no class, are skipped.

    Args:
        localizer: with the model and preprocessing.
        data: its training examples are read once.
        folder: for the embeddings; without one, they are not kept.
        about: what else decides the embeddings, to be compared with an older run in the folder.

    Raises:
        OptionError: none is left.
        OutputError: see ``embeddings_of``.
    """
    known = [example for example in data.training if example.label in data.classes]
    found = embeddings_of(localizer, known, localizer.preprocess, folder, about) if known else []
    good = [(one, example) for one, example in zip(found, known, strict=True) if not isinstance(one, str)]
    if not good:
        raise OptionError(f"{data.name} has no images to train a probe with.")
    labels = [data.classes.index(example.label) for _, example in good]
    return torch.stack([one for one, _ in good]), torch.tensor(labels, dtype=torch.int64, device="cpu")
