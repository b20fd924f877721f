"""An encoder that pools its patches, and which methods find the part there: ``python -m workshop.pooled FILE --pool map``.

The embedded encoder with another end: a learned latent attends to the patches (``map``, as in SigLIP), or their mean is the
embedding (``avg``). It has no class token. The whole encoder learns on with the losses of ``training``; then methods are
measured on held-out twins, as in ``benchmark``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import open_clip
import timm
import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor

from concept_cam.loading import wrap
from concept_cam.localizer import Localizer
from concept_cam.world.birds import species
from concept_cam.world.checkpoint import FOLDER, MEAN, PATCH, STD, WEIGHTS, WIDTH
from concept_cam.world.renderer import SIZE
from workshop.batches import draw_batch
from workshop.benchmark import report
from workshop.training import Student, go_on

_RATE = 0.5
"""Of the learning rates of ``training``."""

_IN_TIMM = {
    r"^visual\.conv1": "patch_embed.proj",
    r"^visual\.ln_pre": "norm_pre",
    r"^visual\.transformer\.resblocks": "blocks",
    r"\.ln_([12])": r".norm\1",
    r"\.attn\.in_proj_": ".attn.qkv.",
    r"\.attn\.out_proj": ".attn.proj",
    r"\.mlp\.c_fc": ".mlp.fc1",
    r"\.mlp\.c_proj": ".mlp.fc2",
}
"""Names of parameters in open_clip, and in timm."""


class Pool(str, Enum):
    """How patches become one embedding, in timm's words."""

    map = "map"
    avg = "avg"


METHODS = {
    Pool.map: "grad_cam,hires_cam,layer_cam,grad_eclip,legrad,relevance,own_streams",
    Pool.avg: "grad_cam,hires_cam,layer_cam,legrad,own_streams",
}


class PooledStudent(Student):
    """The embedded encoder with a tower of timm, which pools its patches."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(FOLDER)
        state = load_file(FOLDER / WEIGHTS)
        self.clip.load_state_dict(state)
        trunk = timm.create_model(
            "vit_base_patch16_siglip_224",
            img_size=SIZE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=6,
            num_heads=6,
            num_classes=0,
            pre_norm=True,
            global_pool=pool.value,
        )
        trunk.load_state_dict(_in_timm(state), strict=False)
        # Any small model of timm makes the tower, whose trunk is then replaced.
        config = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none", "image_size": SIZE}
        self.clip.visual = open_clip.model._build_vision_tower(WIDTH, open_clip.CLIPVisionCfg(**config))
        self.clip.visual.trunk = trunk

    def forward(
        self, pixels: UInt8[Tensor, "B height width 3"], kept: Int64[Tensor, "B kept"] | None = None, swap: bool = False
    ) -> tuple[Float[Tensor, "B E"], None]:
        """Unit embeddings, with all patches or only those ``kept``; there is no class token to swap."""
        trunk = self.clip.visual.trunk
        x = trunk.patch_embed((pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD) + trunk.pos_embed
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, WIDTH))
        x = trunk.norm(trunk.blocks(trunk.norm_pre(x)))
        return F.normalize(trunk.forward_head(x).float(), dim=-1), None


def _in_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the tower up to its pooling, without those of the class token."""
    found = {"pos_embed": state["visual.positional_embedding"][None, 1:]}
    for name, tensor in state.items():
        own = name
        for old, new in _IN_TIMM.items():
            own = re.sub(old, new, own)
        if own.startswith(("patch_embed", "norm_pre", "blocks")):
            found[own] = tensor
    return found


def localizer(student: PooledStudent) -> Localizer:
    """A localizer with the student, as ``world.localizer`` has one with the embedded encoder."""
    preprocess = open_clip.image_transform(SIZE, is_train=False, mean=(MEAN,) * 3, std=(STD,) * 3)
    backbone = wrap(student.clip.eval(), student.tokenizer, preprocess)
    return Localizer(backbone, vocabulary=species(), templates="world")


def main(
    file: Annotated[Path, typer.Argument(help="The weights; trained and written if the file does not exist.")],
    pool: Annotated[Pool, typer.Option(help="map: a learned latent attends to the patches; avg: their mean.")] = Pool.map,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 400,
    size: Annotated[int, typer.Option(help="Images per step.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of weights and plates.")] = 0,
    count: Annotated[int, typer.Option(help="Held-out plates.")] = 500,
    methods: Annotated[str | None, typer.Option(help="Names with commas between them.")] = None,
) -> None:
    """Train the encoder, and measure methods on twins."""
    torch.manual_seed(seed)
    student, names = PooledStudent(pool), (methods or METHODS[pool]).split(",")
    if not file.exists():
        go_on(student, draw_batch, steps, size, (seed, 3), _RATE)
        save_model(student.clip, str(file))
    load_model(student.clip, str(file))
    report(localizer(student), count, seed, names, "own_streams")


if __name__ == "__main__":
    typer.run(main)
