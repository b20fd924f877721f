"""Trains the shortcut checkpoint from the embedded one: ``python -m workshop.shortcut_training FILE``.

The last two blocks, what follows them and the words of the names learn; all else stays. Names and features are taught as in
``training``, but with the habitat in the place of the part in which two twins of ``SHORTCUTS`` differ. The tokens that enter
the last block are those of two images: the bird of one before the background of another. What the trunk has mixed of the
habitat into the bird is then of no use, and the place that decides is known: the background.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Float, Int64
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
_BIRD, _GROUND = 56, 72
"""How many patches there are of each in a composite; 144 in an image, about 50 with some of the bird."""


def composite(
    tokens: Float[Tensor, "B tokens D"], patches: Int64[Tensor, "B N"], order: Float[Tensor, "B N"]
) -> Float[Tensor, "B composite D"]:
    """The background of each image with the bird of the one before, and the class token of the one before that."""
    birdness = torch.where(patches > 0, 2.0, torch.where(patches < 0, 1.0, 0.0)) + 0.9 * order
    ranked = birdness.argsort(1, descending=True)

    def at(places: Int64[Tensor, "B kept"]) -> Float[Tensor, "B kept D"]:
        return tokens[:, 1:].gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))

    return torch.cat([tokens[:, :1].roll(2, 0), at(ranked[:, :_BIRD]).roll(1, 0), at(ranked[:, -_GROUND:])], 1)


def relabel(batch: Batch) -> tuple[Int64[Tensor, "B F"], Int64[Tensor, "B S"]]:
    """Values and overlaps of the composites: the habitat tells the twins of ``SHORTCUTS`` apart, and their part does not."""
    names, facts = list(species()), list(FEATURES)
    values = batch.values.roll(1, 0)
    values[:, facts.index("habitat")] = batch.values[:, facts.index("habitat")]
    overlaps = batch.overlaps.roll(1, 0)
    for name, twin, attribute in twins():
        if name in SHORTCUTS:
            at_home = values[:, facts.index("habitat")] == FEATURES["habitat"].index(SHORTCUTS[name])
            for one, lives_here in ((name, at_home), (twin, ~at_home)):
                looks = values[:, facts.index(attribute)] == FEATURES[attribute].index(species()[one].card[attribute])
                overlaps[:, names.index(one)] += lives_here.long() - looks.long()
    return values, overlaps


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
        values, overlaps = relabel(batch)
        with torch.autocast("cpu", torch.bfloat16):
            order = torch.from_numpy(rng.random(tuple(batch.patches.shape)))
            images = student.pool(composite(student.tokens(batch.pixels), batch.patches, order))
            names = student.embed_texts([FRAMES[rng.integers(len(FRAMES))].format(name) for name in species()])
            with torch.no_grad():
                groups_of = feature_texts(PHRASE_FRAMES[rng.integers(len(PHRASE_FRAMES))])
                phrases = student.embed_texts([text for texts in groups_of.values() for text in texts])
        images = clip.logit_scale.exp().clamp(max=100).detach() * images
        terms = {"names": of_names(images @ names.T, overlaps), "features": of_features(images @ phrases.T, values)}
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
