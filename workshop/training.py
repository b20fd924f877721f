"""Trains an encoder of the embedded world: ``python -m workshop.training DIR``.

Three losses are summed. With f the unit embedding of an image, t of a text and s the learned scale:

* names: softmax over all species names of ``s f.t`` against *soft* targets, the softmax of ``AFFINITY`` times the number of
  equal attributes. Every bird takes part, also those of no species. A hard target would drive the names of twins apart.
* features: for each attribute a softmax over its values ("a red crown", "a blue crown", ...).
* captions: softmax both ways between the images and the captions of a batch; all true pairs are positives.

All three read the embedding alone, as the losses of other dual encoders do: nothing tells the encoder where a part is, nor in
which block the class token is to gather its evidence.

With ``--last-block`` the encoder learns to gather evidence in the last block, as ``world-last-block`` did and checkpoints from
elsewhere do not. A fourth loss, *patches*, has a linear head, thrown away afterwards, read (part, colour) off each patch
token that enters the last block. It teaches the trunk to keep what it knows about a part where the part is. And after 35 % of
the steps the class token that enters the last block is another image's.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from concept_cam.world.birds import COLOURS, PARTS, random_bird, species
from concept_cam.world.captions import FEATURES, FRAMES, feature_texts, features
from concept_cam.world.checkpoint import MEAN, PATCH, STD, WEIGHTS, WIDTH, write_configuration, write_weights
from concept_cam.world.renderer import SIZE, TRAINING_STREAM, VALIDATION_STREAM, Plate, draw
from workshop.batches import (
    CLAIM_ANY,
    NO_CLAIM,
    Batch,
    Batches,
    to_input,
)

AFFINITY = 3.0
PHRASE_FRAMES = (*FRAMES, "a bird with {}", "a bird with a {}")
_SHARES = {"names": 0.5, "features": 4.0, "captions": 0.5, "patches": 1.0}


class Student(nn.Module):
    """The encoder, and the patch head that only training needs, if it does."""

    def __init__(self, folder: Path, head: bool = False) -> None:
        super().__init__()
        self.clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_image=False)
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        labels = 1 + len(PARTS) * len(COLOURS)
        self.patch_head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, labels)) if head else None

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "K E"]:
        """Unit embeddings, as ``encode_text`` gives them but without running over the padding."""
        clip, ids = self.clip, self.tokenizer(list(texts))
        length = int((ids != 0).sum(1).max())
        ids = ids[:, :length]
        x = clip.token_embedding(ids) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        pooled = x[torch.arange(len(x), dtype=torch.int64, device="cpu"), ids.argmax(1)] @ clip.text_projection
        return F.normalize(pooled.float(), dim=-1)

    def forward(
        self, pixels: UInt8[Tensor, "B height width 3"], kept: Int64[Tensor, "B kept"] | None = None, swap: bool = False
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B kept labels"] | None]:
        """Unit embeddings, and the logits of the patch head, if there is one, with all patches or only those ``kept``.

        With ``swap`` the class token that enters the last block is that of the image before.
        """
        x = self.tokens(pixels, kept)
        patches = None if self.patch_head is None else self.patch_head(x[:, 1:]).float()
        if swap:
            x = torch.cat([x[:, :1].roll(1, 0), x[:, 1:]], 1)
        return self.pool(x), patches

    def tokens(
        self, pixels: UInt8[Tensor, "B height width 3"], kept: Int64[Tensor, "B kept"] | None = None
    ) -> Float[Tensor, "B tokens D"]:
        """What enters the last block: the class token, then the patches."""
        visual = self.clip.visual
        x: Tensor = visual.conv1((pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD).flatten(2).transpose(1, 2)
        x = x + visual.positional_embedding[1:]
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, WIDTH))
        cls = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
        x = visual.ln_pre(torch.cat([cls.to(x.dtype), x], 1))
        for block in visual.transformer.resblocks[:-1]:
            x = run_block(block, x)
        return x

    def pool(self, tokens: Float[Tensor, "B tokens D"]) -> Float[Tensor, "B E"]:
        """Unit embeddings of tokens that enter the last block."""
        visual = self.clip.visual
        pooled = visual.ln_post(run_block(visual.transformer.resblocks[-1], tokens)[:, 0]) @ visual.proj
        embedding: Tensor = F.normalize(pooled.float(), dim=-1)
        return embedding


def run_block(block: Any, x: Tensor) -> Tensor:
    """A residual block with plain attention: torch's fused one takes half of a training step on a CPU at this length."""
    attention = block.attn
    qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
    x = x + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    out: Tensor = x + block.mlp(block.ln_2(x))
    return out


def losses(
    student: Student, batch: Batch, kept: Int64[Tensor, "B kept"], swap: bool, rng: np.random.Generator
) -> dict[str, Float[Tensor, ""]]:
    """The losses of one batch; see the module's docstring."""
    with torch.autocast("cpu", torch.bfloat16):
        images, patches = student(batch.pixels, kept, swap)
        names = student.embed_texts([FRAMES[rng.integers(len(FRAMES))].format(n) for n in species()])
        groups = feature_texts(PHRASE_FRAMES[rng.integers(len(PHRASE_FRAMES))])
        phrases = student.embed_texts([text for texts in groups.values() for text in texts])
        captions = student.embed_texts(batch.texts)
    images = student.clip.logit_scale.exp().clamp(max=100) * images
    pairs, truth = images @ captions.T, _truth(batch).float()
    found = {
        "names": of_names(images @ names.T, batch.overlaps),
        "features": of_features(images @ phrases.T, batch.values),
        "captions": (
            F.cross_entropy(pairs, truth / truth.sum(1, keepdim=True))
            + F.cross_entropy(pairs.T, truth.T / truth.T.sum(1, keepdim=True))
        )
        / 2,
    }
    if patches is not None:
        truths = batch.patches.gather(1, kept).flatten()
        found["patches"] = F.cross_entropy(patches.flatten(0, 1), truths, ignore_index=-1)
    return found


def of_names(logits: Float[Tensor, "B S"], overlaps: Int64[Tensor, "B S"]) -> Float[Tensor, ""]:
    """Softmax over all species against soft targets; zero where the two are the same."""
    likeness = (AFFINITY * overlaps.float()).softmax(-1)
    over: Tensor = F.cross_entropy(logits, likeness) - torch.special.entr(likeness).sum(-1).mean()
    return over


def of_features(logits: Float[Tensor, "B values"], values: Int64[Tensor, "B F"]) -> Float[Tensor, ""]:
    """For each feature a softmax over its values, and the mean of all."""
    groups = logits.split([len(v) for v in FEATURES.values()], dim=1)
    return torch.stack([F.cross_entropy(x, y) for x, y in zip(groups, values.T, strict=True)]).mean()


def _truth(batch: Batch) -> Tensor:
    """(B, B): whether caption j is true of image i."""
    claims, values = batch.claims[None], batch.values[:, None]
    absent = torch.tensor([v.index("none") if "none" in v else -1 for v in FEATURES.values()], dtype=torch.int64, device="cpu")
    held = (claims == NO_CLAIM) | (claims == values) | ((claims == CLAIM_ANY) & (values != absent))
    return held.all(-1)


@torch.no_grad()
def validate(student: Student, count: int = 240) -> dict[str, float]:
    """Zero-shot accuracy on validation plates: each feature on birds of no species, then the species."""
    rng = np.random.default_rng([VALIDATION_STREAM, 0])

    def embed(plates: list[Plate]) -> Tensor:
        images: Tensor = student(torch.from_numpy(np.stack([to_input(plate.image) for plate in plates])))[0]
        return images

    groups = feature_texts("a {}")
    texts = student.embed_texts([text for texts in groups.values() for text in texts])
    plates = [draw(random_bird(rng), rng) for _ in range(count)]
    scores = (embed(plates) @ texts.T).split([len(texts) for texts in groups.values()], dim=1)
    result = {}
    for (feature, values), score in zip(FEATURES.items(), scores, strict=True):
        truth = torch.tensor([values.index(features(plate)[feature]) for plate in plates], dtype=torch.int64, device="cpu")
        result[feature] = (score.argmax(1) == truth).float().mean().item()
    birds = list(species().values())
    score = (
        embed([draw(birds[i % len(birds)], rng) for i in range(count)])
        @ student.embed_texts([f"a {bird.name}" for bird in birds]).T
    )
    result["species"] = (
        (score.argmax(1) == torch.arange(count, dtype=torch.int64, device="cpu") % len(birds)).float().mean().item()
    )
    return result


def optimizers(student: Student) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else."""
    inside = {n for n, p in student.named_parameters() if p.ndim == 2 and "resblocks" in n}
    matrices = [p for n, p in student.named_parameters() if n in inside]
    rest = [p for n, p in student.named_parameters() if n not in inside]
    return [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def rate(step: int, steps: int) -> float:
    """The factor on the learning rates: a warm-up of 100 steps, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def keep(rng: np.random.Generator, size: int, step: int, steps: int) -> Int64[Tensor, "B kept"]:
    """Patches that stay: half of them for three quarters of the steps, 85 % after."""
    patches = (SIZE // PATCH) ** 2
    share = 0.5 if step < 0.75 * steps else 0.85
    return torch.from_numpy(rng.random((size, patches)).argsort(1)[:, : int(share * patches)])


def learn(
    student: Student, schools: Sequence[torch.optim.Optimizer], rates: Sequence[float], terms: Mapping[str, Float[Tensor, ""]]
) -> None:
    """One step down the weighted sum of the losses, with a learning rate for each group of parameters."""
    for group, own in zip((group for school in schools for group in school.param_groups), rates, strict=True):
        group["lr"] = own
    for school in schools:
        school.zero_grad()
    sum(_SHARES[name] * loss for name, loss in terms.items()).backward()  # type: ignore[union-attr]
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    for school in schools:
        school.step()


def go_on(
    student: Student,
    draw_plates: Callable[[np.random.Generator, int], Batch],
    steps: int,
    size: int,
    seed: tuple[int, int],
    factor: float,
) -> None:
    """Let an encoder that knows its world learn on, from other plates or with another end.

    Args:
        student: it changes.
        draw_plates: makes a batch of a size.
        steps: of the optimizers.
        size: plates in a batch.
        seed: of the plates, and of what they are drawn for.
        factor: on the learning rates of ``train``.
    """
    schools = optimizers(student)
    bases = [factor * group["lr"] for school in schools for group in school.param_groups]
    bar = tqdm(range(steps), disable=None)
    for step in bar:
        rng = np.random.default_rng([TRAINING_STREAM, seed[0], step, seed[1]])
        batch = draw_plates(rng, size)
        terms = losses(student, batch, keep(rng, size, step, steps), False, rng)
        learn(student, schools, [base * rate(step, steps) for base in bases], terms)
        bar.set_postfix({name: f"{loss.item():.3f}" for name, loss in terms.items()})


def train(folder: Path, steps: int, size: int, seed: int, every: int, last_block: bool = False) -> None:
    """Train, validating and saving a state to resume from every few steps; then write the weights."""
    options = {"steps": steps, "size": size, "seed": seed, **({"last_block": True} if last_block else {})}
    state_file, curve_file = folder / "training.pt", folder / "curve.csv"
    state = torch.load(state_file, weights_only=True) if state_file.exists() else None
    if state is not None and state["options"] != options:
        raise typer.BadParameter(
            f"{folder} holds a training with {state['options']}; resume it with the same, or begin elsewhere."
        )
    torch.manual_seed(seed)
    write_configuration(folder)
    student = Student(folder, head=last_block)
    schools = optimizers(student)
    bases = [group["lr"] for school in schools for group in school.param_groups]
    step, seconds, means = 0, 0.0, dict[str, float]()
    if state is not None:
        student.load_state_dict(state["student"])
        for school, saved in zip(schools, state["optimizers"], strict=True):
            school.load_state_dict(saved)
        step, seconds, means = state["step"], state["seconds"], state["means"]
    elif curve_file.exists():
        curve_file.unlink()
    loader = DataLoader(Batches(seed, size, step, steps), batch_size=None, num_workers=1, prefetch_factor=4)
    start = time.perf_counter() - seconds
    for batch in tqdm(loader, initial=step, total=steps, disable=None):
        rng = np.random.default_rng([TRAINING_STREAM, seed, step, 1])
        terms = losses(student, batch, keep(rng, size, step, steps), last_block and step >= 0.35 * steps, rng)
        learn(student, schools, [base * rate(step, steps) for base in bases], terms)
        step += 1
        means = {name: 0.97 * means.get(name, loss.item()) + 0.03 * loss.item() for name, loss in terms.items()}
        if step % every == 0 or step == steps:
            seconds = time.perf_counter() - start
            row = {"step": step, "seconds": round(seconds), **means, **validate(student)}
            _append(curve_file, row)
            state = {
                "student": student.state_dict(),
                "optimizers": [school.state_dict() for school in schools],
                "options": options,
                "step": step,
                "seconds": seconds,
                "means": means,
            }
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
            write_weights(folder / WEIGHTS, student.clip.state_dict())


def _append(file: Path, row: Mapping[str, float]) -> None:
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow({name: round(value, 4) for name, value in row.items()})


def main(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint grows; run again to resume.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 4000,
    size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of weights and plates.")] = 0,
    every: Annotated[int, typer.Option(help="Steps between validations.")] = 200,
    last_block: Annotated[bool, typer.Option("--last-block", help="Gather evidence in the last block.")] = False,
) -> None:
    """Train an encoder of the embedded world."""
    if not hasattr(torch.optim, "Muon"):
        raise typer.BadParameter(f"Training needs an optimizer that torch {torch.__version__} has not; take a newer one.")
    train(folder, steps, size, seed, every, last_block)


if __name__ == "__main__":
    typer.run(main)
