"""A model that is used by other threads and processes while a map is made."""

from __future__ import annotations

import os
import threading
import warnings

import pytest
import torch
import zoo
from PIL import Image
from torch import nn

from concept_cam import Localizer, hooks, wrap
from concept_cam.backbones.guard import LOCK, evaluating
from concept_cam.errors import BackboneError


def test_a_training_step_in_another_thread_is_one_in_training_mode():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    seen, started, finished = [], threading.Event(), threading.Event()

    def train():
        started.set()
        for _ in range(20):
            before = model[1].running_mean.clone()
            model(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
            seen.append(not torch.equal(before, model[1].running_mean))
        finished.set()

    thread = threading.Thread(target=train)
    with evaluating(model):
        assert not model.training
        thread.start()
        started.wait(10)
        assert not finished.wait(0.2)
        # This thread does not wait for itself.
        assert torch.equal(model(torch.ones(2, 4)), model(torch.ones(2, 4)))
    for _ in range(20):
        with evaluating(model):
            pass
    thread.join(10)
    assert seen == [True] * 20
    assert model.training
    assert not model._forward_pre_hooks


def test_in_evaluation_mode_nobody_waits():
    model = nn.Linear(4, 4).eval()
    done = threading.Event()
    with evaluating(model):
        thread = threading.Thread(target=lambda: (model(torch.ones(1, 4)), done.set()))
        thread.start()
        assert done.wait(10)
    thread.join(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_localizes_can_localize():
    model = zoo.tiny_clip().float().train()
    localizer = Localizer(wrap(model, zoo.TOKENIZER), templates=["a {}"])
    image = Image.new("RGB", (40, 24), "red")
    localizer(image, "red crown", "bird")
    holding, free = threading.Event(), threading.Event()

    def hold():
        with evaluating(model):
            holding.set()
            free.wait(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, about threads and forks
        child = os.fork()
    if child == 0:
        # No more than it takes: neither pytest nor torch's threads live here.
        os._exit(0 if LOCK.acquire(timeout=5) and model.training and not model._forward_pre_hooks else 1)
    _, status = os.waitpid(child, 0)
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
    assert LOCK.acquire(timeout=5)
    LOCK.release()


class _InThreads(nn.Module):
    """Calls a part of itself in a thread, and waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, x):
        found = []

        def work():
            try:
                found.append(self.part(x))
            except BackboneError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(found[0], BackboneError):
            raise found[0]
        return found[0]


def test_a_model_with_threads_of_its_own_is_told_instead_of_waited_for(monkeypatch):
    monkeypatch.setattr(hooks, "_PATIENCE", 0.2)
    model = _InThreads()
    with evaluating(model.eval()):
        model(torch.ones(1, 4))
    with evaluating(model.train()), pytest.raises(BackboneError, match=r"put it into evaluation mode first: model\.eval\(\)"):
        model(torch.ones(1, 4))
    assert model.training
