"""The benchmarks measure what they say: the same maps by other ways, times in turn, bytes alive at once."""

from __future__ import annotations

import gc
from importlib.util import find_spec
from itertools import count

import open_clip
import pytest
import torch
import torch.nn.functional as F
import zoo

from benchmarks import checks, pipeline, speed, store, timing
from benchmarks.contenders import AT_HAND, LAYER_ALONE, PER_GRAPH, STREAM_AT_HAND, Bench, every_block, ours, peers
from concept_cam import world


@pytest.fixture(scope="module")
def bench():
    return Bench.about(zoo.backbone("class token"), batch=2)


@pytest.fixture
def ticking(monkeypatch):
    """A clock that moves by one second at each look, and contenders that tell when they ran."""
    ticks = count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))


def test_our_contenders_give_the_same_maps(bench):
    contenders = ours(bench)
    few = contenders["concept-cam, 10 concepts"]()
    for name in ("concept-cam, 1,000 concepts", "concept-cam, 10,000 concepts", AT_HAND):
        many = torch.stack(contenders[name](), 1)
        assert len(many) == int(name.split()[-2 if "cam" in name else 0].replace(",", ""))
        torch.testing.assert_close(many[:10], few)
    torch.testing.assert_close(contenders["concept-cam, 1 concept"](), few[:1])


def test_methods_of_every_block_give_the_same_maps_alone_and_by_fields(bench):
    contenders = every_block(bench)
    for name in ("class_stream", "direct"):
        alone, fields = contenders[f"{name}, 1 concept"](), contenders[f"{name}, the field"]()
        torch.testing.assert_close(torch.stack([field(bench.directions[:1]) for field in fields], 1), alone)
    many = contenders[STREAM_AT_HAND]()
    assert [len(maps) for maps in many] == [1000, 1000]
    torch.testing.assert_close(torch.stack(many, 1)[:1], contenders["class_stream, 1 concept"]())
    # The model has two blocks, so the last four are all.
    for four, whole in zip(contenders["class_stream:4, the field"](), bench.streams, strict=True):
        torch.testing.assert_close(four.vectors, whole.vectors)


def test_the_table_of_every_block(monkeypatch, bench):
    monkeypatch.setattr(Bench, "of", lambda *_, **__: bench)
    rows = [line.strip("| ").split(" | ") for line in speed.blocks_table("cpu", 1) if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [speed.OWN, speed.COMPARED[0], *every_block(bench)]
    assert float(rows[1][2]) == 1
    assert all(float(row[1]) > 0 for row in rows[1:])


@pytest.mark.parametrize("how", ["", LAYER_ALONE], ids=["everywhere", "layer alone"])
def test_torch_cam_is_asked_for_the_same_maps(bench, how):
    if not find_spec("torchcam"):
        pytest.skip("torch-cam needs Python 3.11")
    theirs = peers(bench, many=True)[f"torch-cam{how}, {PER_GRAPH} concepts"]()
    expected = bench.one_by_one(PER_GRAPH).relu()
    torch.testing.assert_close(torch.stack(theirs), expected)


@pytest.mark.parametrize("how", ["", LAYER_ALONE], ids=["everywhere", "layer alone"])
def test_grad_cam_is_asked_for_the_same_maps(bench, how):
    """But for its weights on the references, softmax over all scores, and for its scaling."""
    theirs = peers(bench, many=True)[f"grad-cam{how}, {PER_GRAPH} concepts"]()
    clipped = bench.one_by_one(PER_GRAPH).relu()
    large = F.interpolate(clipped, bench.pixels.shape[2:], mode="bilinear").flatten(2)
    theirs = torch.stack([torch.as_tensor(maps) for maps in theirs]).flatten(2).to(large)
    centred = [maps - maps.mean(-1, keepdim=True) for maps in (large, theirs)]
    alike = torch.einsum("kbn,lbn->blk", *(F.normalize(maps, dim=-1) for maps in centred))
    assert alike.diagonal(dim1=1, dim2=2).mean() > 0.97
    assert (alike.mean(0).argmax(1) == torch.arange(PER_GRAPH)).all()


def test_the_model_is_frozen_again_after_a_peer(bench):
    for contender in peers(bench, many=False).values():
        contender()
    assert not any(p.requires_grad or p.grad is not None for p in bench.backbone.module.parameters())


def test_contenders_take_turns_and_medians_count(ticking):
    ran = []
    took = timing.alternate({"a": lambda: ran.append("a"), "b": lambda: (ran.append("b"), timing.time.perf_counter())}, 7)
    assert {"".join(ran[i : i + 2]) for i in range(0, len(ran), 2)} == {"ab", "ba"}
    assert len(ran) == 16
    assert took == {"a": 1.0, "b": 2.0}


def test_peak_memory_is_what_is_alive_at_once():
    tensor = torch.zeros(1000, 1000)
    gc.collect()
    assert timing.peak_memory(lambda: tensor + 1) == pytest.approx(4e6, rel=0.01)
    assert timing.peak_memory(lambda: ((tensor + 1) + 1).sum().item()) == pytest.approx(8e6, rel=0.01)
    assert timing.peak_memory(lambda: [(tensor + 1).sum() for _ in range(3)]) == pytest.approx(4e6, rel=0.01)


def test_the_table_of_speed(monkeypatch, bench):
    monkeypatch.setattr(Bench, "of", lambda *_: bench)
    for several in (False, True):
        lines = list(speed.table(speed.Case("tiny", 2, 1, several=several)))
        rows = [line.split(" | ") for line in lines if line.startswith("| ")]
        own = speed.COMPARED if several else [*ours(bench)]
        assert [row[0].strip("| ") for row in rows[1:]] == [speed.OWN, *own, *peers(bench, several)]
        assert float(rows[1][2]) == 1
        assert all(float(row[1]) > 0 for row in rows[1:])
        assert sum(line.startswith("* ") for line in lines) == (len(peers(bench, False)) if several else 0)


def test_the_pipeline_saves_a_map_of_every_file(tmp_path):
    paths = pipeline.write_images(tmp_path, 3)
    done = pipeline.timed(pipeline.localized(world.localizer(), paths, tmp_path, ("ember finch", "frost finch")), 3, (1, 3))
    assert done.rate > 0
    assert set(done.held) == {1, 3}
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == [path.stem for path in paths]


def test_the_table_of_the_pipeline(monkeypatch):
    """Told of rates and memory that are known: medians of both ways, and what is held after a third and at the end."""
    rates = iter([3, 8, 9, 2, 5, 4])  # the other first, then the model alone first
    ways = []

    def timed(images, total, marks):
        ways.append(len(list(images)))
        rate = next(rates)
        return pipeline.Run(rate, {mark: rate * mark * 1e6 for mark in marks})

    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"] |= {"width": 64, "layers": 2, "head_width": 16}
    config["text_cfg"] |= {"width": 16, "heads": 2, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", config)
    monkeypatch.setattr(pipeline, "timed", timed)
    with torch.random.fork_rng():
        lines = list(pipeline.table("ViT-B-32", 3, 3))
    assert ways == [3] * 6
    assert lines[-2:] == [
        "| decode and forward pass alone | 8.00 | 1.000 | 8 | 24 |",
        "| Localizer.stream, one concept, saved | 3.00 | 0.375 | 3 | 9 |",
    ]


def test_the_checks_that_are_timed_are_those_of_a_pass(bench):
    backbone = bench.backbone
    timed = checks.contenders(bench)
    embedding = backbone.normalize(timed[checks.IMAGE]())
    with backbone.evaluating():
        own = backbone.normalize(backbone.embed_pixels(bench.pixels[:1]))
    torch.testing.assert_close(embedding, own)
    before = {name: timed[name]() for name in (checks.STRUCTURE, checks.TEXTS, checks.FOLDED)}
    with torch.no_grad():
        backbone.module.ln_final.weight.data[0] += 1
        assert timed[checks.TEXTS]() != before[checks.TEXTS]
        backbone.module.ln_final.weight.data[0] -= 1
    assert timed[checks.STRUCTURE]() == before[checks.STRUCTURE]
    assert timed[checks.FOLDED]() == before[checks.FOLDED]


@pytest.mark.slow
def test_the_tables_of_a_store(tmp_path, monkeypatch):
    localizer = world.localizer()
    monkeypatch.setattr(store, "_TEXTS", 200)
    columns = {column.header: list(column.cells) for column in store.losses_table(localizer, 3).columns}
    size, kept = columns["bytes an image"], columns["142: one attribute against bird"]
    assert columns["kept as"][:2] == ["exact", "compact"]
    assert size[:2] == ["55,300", "28,224"]
    assert "10: two to four against bird" in columns
    alike = [float(cell.split(",")[0]) for cell in kept]
    assert alike[0] > 0.9999
    assert alike[1] > 0.997 > alike[2]
    found = {column.header: list(column.cells) for column in store.found_table(localizer, tmp_path, 4).columns}
    assert len(found["text"]) == 6
    assert found["of the first 50"][:3] == found["of the first 50"][3:]
    ranked = {column.header: list(column.cells) for column in store.ranks_table(localizer, tmp_path, 4).columns}
    assert len(ranked["ranked by"]) == 5
    assert len(set(ranked["of the first 50, %"])) == 1
    (rows, *_) = store.index_table(tmp_path, 100).columns
    assert list(rows.cells) == ["100", "100"]
