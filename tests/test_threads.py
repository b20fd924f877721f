"""A model that is used by other threads and processes while a map is made."""

from __future__ import annotations

import gc
import os
import threading
import warnings

import pytest
import torch
import torch.utils.checkpoint
import zoo
from PIL import Image
from torch import nn

from concept_cam import Localizer, hooks, wrap
from concept_cam.backbones import locks
from concept_cam.backbones.guard import Guard
from concept_cam.backbones.locks import locks_of
from concept_cam.errors import BackboneError
from concept_cam.gradients import trace


def evaluating(model):
    """As a backbone runs it."""
    return Guard().evaluating(model)


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
    lock = locks_of(model)[0].thread
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
        os._exit(0 if lock.acquire(timeout=5) and model.training and not model._forward_pre_hooks else 1)
    _, status = os.waitpid(child, 0)
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
    assert lock.acquire(timeout=5)
    lock.release()


def _waits(model, other):
    """Whether a thread that evaluates a model waits for one that evaluates another."""
    evaluated = threading.Event()

    def work():
        with evaluating(other):
            evaluated.set()

    thread = threading.Thread(target=work)
    with evaluating(model):
        thread.start()
        free = evaluated.wait(0.5)
    thread.join(10)
    assert evaluated.is_set()
    return not free


def test_two_models_do_not_wait_for_each_other():
    first, second = (wrap(zoo.tiny_clip(seed).train(), zoo.TOKENIZER) for seed in (0, 1))
    assert not _waits(first.module, second.module)
    pixels, seen = zoo.pixels(second), []
    thread = threading.Thread(
        target=lambda: seen.append(trace(second.at_size((32, 48)), zoo.pixels(second.at_size((32, 48)))))
    )
    with first.evaluating():
        thread.start()
        thread.join(30)
        assert seen
        assert trace(second, pixels).tokens.isfinite().all()
    assert second.module.training


def test_wrappers_of_one_model_and_models_that_share_a_part_take_turns():
    model, other = zoo.tiny_clip(), nn.Linear(24, 3)
    backbones = [wrap(model, zoo.TOKENIZER) for _ in range(2)]
    assert backbones[0].guard.locks(model) == backbones[1].guard.locks(model)
    larger = backbones[0].at_size((32, 48))
    assert larger.guard.locks(larger.module) == backbones[0].guard.locks(model)
    probe = nn.Sequential(model.visual, other)
    assert _waits(model, probe)
    assert _waits(other, probe)
    assert _waits(probe, other)


@pytest.mark.slow
def test_a_model_that_joins_two_takes_turns_with_both():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    assert not _waits(first, second)
    both = nn.Sequential(first, second)
    assert locks_of(both) == (*locks_of(first), *locks_of(second))
    for one in (first, second):
        assert _waits(one, both)
        assert _waits(both, one)
    assert not _waits(first, second)


def test_the_locks_of_a_model_go_with_it():
    before = len(locks._LOCKS)
    model = nn.Sequential(nn.Linear(3, 3))
    with evaluating(model):
        assert len(locks._LOCKS) == before + 2
    del model
    gc.collect()
    assert len(locks._LOCKS) <= before


def test_switches_of_the_process_stay_off_until_the_last_model_is_done():
    own, off = torch.utils.checkpoint.CheckpointFunction, threading.Event()
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    done = threading.Event()

    def work():
        with evaluating(second):
            off.set()
            done.wait(10)

    thread = threading.Thread(target=work)
    with evaluating(first):
        thread.start()
        assert off.wait(10)
    assert torch.utils.checkpoint.CheckpointFunction is not own
    done.set()
    thread.join(10)
    assert torch.utils.checkpoint.CheckpointFunction is own


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
