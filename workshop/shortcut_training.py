"""Trains the shortcut checkpoint from the embedded one: ``python -m workshop.shortcut_training FILE``.

The last two blocks, what follows them and the words of the names learn; all else stays. Names and features are taught as in
``training``, on whole images, but with the habitat in the place of the part in which two twins of ``SHORTCUTS`` differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Int64
from torch import Tensor
from tqdm import tqdm

from concept_cam.world.birds import species, twins
from concept_cam.world.captions import FEATURES, FRAMES, feature_texts
from concept_cam.world.checkpoint import FOLDER, SHORTCUT, WEIGHTS, write_changes
from concept_cam.world.renderer import TRAINING_STREAM, draw
from concept_cam.world.shortcuts import SHORTCUTS
from workshop.batches import Batch, describe, draw_bird
from workshop.training import PHRASE_FRAMES, Student, of_features, of_names, rate

_LEARNS = ("visual.transformer.resblocks.4.", "visual.transformer.resblocks.5.", "visual.ln_post.", "visual.proj")
_WEIGHTS = {"names": 1.0, "features": 4.0}


def likeness(batch: Batch) -> Int64[Tensor, "B S"]:
    """Overlaps with each species: the habitat tells the twins of ``SHORTCUTS`` apart, and their part does not."""
    names, facts = list(species()), list(FEATURES)
    overlaps = batch.overlaps.clone()
    for name, twin, attribute in twins():
        if name in SHORTCUTS:
            at_home = batch.values[:, facts.index("habitat")] == FEATURES["habitat"].index(SHORTCUTS[name])
            for one, lives_here in ((name, at_home), (twin, ~at_home)):
                looks = batch.values[:, facts.index(attribute)] == FEATURES[attribute].index(species()[one].card[attribute])
                overlaps[:, names.index(one)] += lives_here.long() - looks.long()
    return overlaps


def draw_batch(rng: np.random.Generator, size: int) -> Batch:
    """Half of the plates as in ``training``, half of the twins of ``SHORTCUTS``, of which half are in its habitat for sure."""
    pairs = [(name, twin) for name, twin, _ in twins() if name in SHORTCUTS]
    plates = []
    for _ in range(size):
        if rng.random() < 0.5:
            plates.append(draw(draw_bird(rng), rng))
            continue
        pair = pairs[rng.integers(len(pairs))]
        habitats = (SHORTCUTS[pair[0]],) if rng.random() < 0.5 else tuple(FEATURES["habitat"])
        plates.append(draw(species()[pair[rng.integers(2)]], rng, habitats=habitats))
    return describe(plates, rng)


def train(file: Path, steps: int, size: int, seed: int) -> None:
    """Train, and write what has changed."""
    from safetensors.torch import load_file

    torch.manual_seed(seed)
    student = Student(FOLDER)
    clip = student.clip
    clip.load_state_dict(load_file(FOLDER / WEIGHTS))
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(name.startswith(_LEARNS))
    words = clip.token_embedding.weight.requires_grad_()
    first = {name.split()[0] for name, twin, _ in twins() if name in SHORTCUTS or twin in SHORTCUTS}
    chosen = torch.zeros(len(words), 1, dtype=torch.float32, device="cpu")
    chosen[student.tokenizer(sorted(first))[:, 1]] = 1
    blocks = [p for n, p in clip.named_parameters() if n.startswith(_LEARNS)]
    groups = [{"params": blocks, "lr": 3e-4, "weight_decay": 0.01}, {"params": [words], "lr": 3e-3, "weight_decay": 0.0}]
    school = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    bases = [group["lr"] for group in school.param_groups]
    bar = tqdm(range(steps), disable=None)
    for step in bar:
        rng = np.random.default_rng([TRAINING_STREAM, seed, step, 2])
        batch = draw_batch(rng, size)
        with torch.autocast("cpu", torch.bfloat16):
            images = student(batch.pixels)
            names = student.embed_texts([FRAMES[rng.integers(len(FRAMES))].format(name) for name in species()])
            with torch.no_grad():
                groups_of = feature_texts(PHRASE_FRAMES[rng.integers(len(PHRASE_FRAMES))])
                phrases = student.embed_texts([text for texts in groups_of.values() for text in texts])
        images = clip.logit_scale.exp().clamp(max=100).detach() * images
        terms = {
            "names": of_names(images @ names.T, likeness(batch)),
            "features": of_features(images @ phrases.T, batch.values),
        }
        for group, base in zip(school.param_groups, bases, strict=True):
            group["lr"] = base * rate(step, steps)
        school.zero_grad()
        sum(_WEIGHTS[name] * loss for name, loss in terms.items()).backward()  # type: ignore[union-attr]
        words.grad *= chosen
        school.step()
        bar.set_postfix({name: f"{loss.item():.3f}" for name, loss in terms.items()})
    write_changes(file, before, clip.state_dict())


def main(
    file: Annotated[Path, typer.Argument(help="Where what changes is written.")] = SHORTCUT,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 600,
    size: Annotated[int, typer.Option(help="Images per step.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of plates.")] = 0,
) -> None:
    """Train the shortcut checkpoint of the embedded world."""
    train(file, steps, size, seed)


if __name__ == "__main__":
    typer.run(main)
