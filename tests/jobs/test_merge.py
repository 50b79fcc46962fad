"""Merging adapters: the sum is the sum whatever the formats, trainers and layouts; what cannot be merged says why."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest
import torch
from lora_graft import adapters, plots
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.jobs import workers
from lora_graft.jobs.merge import architecture
from lora_graft.jobs.merge import module as merge_module
from lora_graft.jobs.merge.figures import figures
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.report import MergeReport
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.merge.settings import Weighted
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS
from lora_graft.names import WeightSlice, known_names, names_for
from lora_graft.names.alike import flat

SUM = MergeSettings(method="concat", dtype="fp32")
Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
Q_DIFFUSERS = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def dice(seed):
    return torch.Generator().manual_seed(seed)


def lora(key, m, n, rank, seed, *, alpha=None, kernel=(), spelling="kohya", dtype=torch.float32):
    g = dice(seed)
    up, down = torch.randn(m, rank, *[1] * len(kernel), generator=g), torch.randn(rank, n, *kernel, generator=g)
    names = (".lora_up.weight", ".lora_down.weight") if spelling == "kohya" else (".lora_B.weight", ".lora_A.weight")
    out = {key + names[0]: up.to(dtype), key + names[1]: down.to(dtype)}
    return out | ({} if alpha is None else {f"{key}.alpha": torch.tensor(float(alpha))})


def read(*parts, metadata=None, file=None):
    tensors = {k: t for part in parts for k, t in part.items()}
    return adapters.from_state_dict(tensors, metadata=metadata or {}, file=file)


def both(adapter, strength=1.0):
    return Weighted(adapter, strength, strength)


def delta(adapter, key):
    return adapter.modules[key].delta().double()


def close(a, b, tolerance=1e-5):
    assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


def test_the_sum_is_the_sum_with_strengths_alphas_and_ranks():
    a = read(lora(Q, 40, 30, 4, 1, alpha=2), lora(TEXT, 20, 10, 2, 3))
    b = read(lora(Q, 40, 30, 7, 2), lora(TEXT, 20, 10, 3, 4))
    result = merge([(a, 0.8, 0.5), (b, -0.3, 2.0)], SUM).adapter
    close(delta(result, Q), 0.8 * delta(a, Q) - 0.3 * delta(b, Q))
    close(delta(result, TEXT), 0.5 * delta(a, TEXT) + 2.0 * delta(b, TEXT))
    assert result.modules[Q].rank == 11 and result.layout == "kohya"


def test_convolutions_lohas_lokrs_and_cores_add_up():
    conv = "lora_unet_input_blocks_1_0_in_layers_2"
    g = dice(9)
    sizes = {"a": (16, 2), "b": (2, 72)}
    loha = {f"{conv}.hada_w{i}_{x}": torch.randn(*sizes[x], generator=g) for i in (1, 2) for x in "ab"}
    lokr = {f"{conv}.lokr_w1": torch.randn(4, 2, generator=g), f"{conv}.lokr_w2": torch.randn(4, 4, 3, 3, generator=g)}
    core = {
        f"{conv}.lora_up.weight": torch.randn(16, 3, 1, 1, generator=g),
        f"{conv}.lora_mid.weight": torch.randn(3, 2, 3, 3, generator=g),
        f"{conv}.lora_down.weight": torch.randn(2, 8, 1, 1, generator=g),
    }
    plain = lora(conv, 16, 8, 3, 5, kernel=(3, 3))
    given = [read(part) for part in (plain, loha, lokr, core)]
    result = merge([both(a, s) for a, s in zip(given, (1.0, 0.5, -2.0, 0.7), strict=True)], SUM).adapter
    want = sum(s * delta(a, conv).reshape(16, 8, 3, 3) for a, s in zip(given, (1.0, 0.5, -2.0, 0.7), strict=True))
    close(delta(result, conv), want, 1e-4)
    assert result.modules[conv].rank <= 16, "no more rank than the weight can have"


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("job", ["merge", "resize"])
def test_products_of_a_convolution_get_its_kernel_from_the_base(kernel, job):
    """LyCORIS stores a LoHa's factors flat; loaders of LoRA want a convolution's own shape."""
    name, key = "diffusion_model.input_blocks.1.0.in_layers.2.weight", "lora_unet_input_blocks_1_0_in_layers_2"
    columns = 8 * kernel[0] * kernel[1]
    tensors = {f"{key}.hada_w{i}_a": torch.randn(16, 2) for i in "12"}
    tensors |= {f"{key}.hada_w{i}_b": torch.randn(2, columns) for i in "12"}
    adapter = adapters.from_state_dict(tensors)
    shapes = {"diffusion_model.input_blocks.1.0.in_layers.0.weight": (8,), name: (16, 8, *kernel)}
    base = SimpleNamespace(names=names_for(shapes), label="small", fingerprint="", architecture="SD 1.5")
    base.weights = lambda: shapes
    if job == "merge":
        settings = MergeSettings(method="concat", dtype="fp32")
        made = merge([(adapter, 0.5, 0.5)] * 2, settings, base=base).adapter
    else:
        made = resize(adapter, ResizeSettings("rank", 4, dtype="fp32"), base=base).adapter
    (module,), (before,) = made.modules.values(), adapter.modules.values()
    up, down = module.factors()
    assert up.shape[2:] == (1, 1) and down.shape[1:] == (8, *kernel)
    torch.testing.assert_close(module.delta().flatten(1), before.delta().flatten(1), rtol=1e-4, atol=1e-4)


def test_a_bias_keeps_the_word_of_its_layout():
    """PEFT's bias of B where PEFT's factors are written, .diff_b beside kohya's."""
    peft = {
        "transformer.x.lora_B.weight": torch.randn(4, 2),
        "transformer.x.lora_A.weight": torch.randn(2, 4),
        "transformer.x.lora_B.bias": torch.randn(4),
    }
    kohya = {
        "lora_unet_x.lora_up.weight": torch.randn(4, 2),
        "lora_unet_x.lora_down.weight": torch.randn(2, 4),
        "lora_unet_x.diff_b": torch.randn(4),
    }
    for tensors, word in ((peft, ".lora_B.bias"), (kohya, ".diff_b")):
        adapter = adapters.from_state_dict(tensors)
        (before,) = adapter.modules.values()
        settings = MergeSettings(method="concat", dtype="fp32")
        (module,) = merge([(adapter, 0.5, 0.5)] * 2, settings).adapter.modules.values()
        assert {s for s in module.tensors if "bias" in s or "diff_b" in s} == {word}
        torch.testing.assert_close(module.bias(), before.bias())


def test_layouts_are_matched_without_a_base():
    """kohya's checkpoint names and diffusers' names of SDXL, text encoders and a linear as 1x1 convolution included."""
    kohya = read(lora(Q, 640, 640, 4, 1), lora(K, 640, 2048, 4, 2), lora(TEXT, 3072, 768, 2, 3))
    text = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    second = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
    diffusers = read(
        lora(Q_DIFFUSERS, 640, 640, 3, 4, spelling="peft"),
        lora(text, 3072, 768, 2, 5, spelling="peft"),
        lora(second, 640, 2048, 3, 6, spelling="peft"),
    )
    result = merge([both(kohya), both(diffusers, 0.5)], SUM)
    modules = result.adapter.modules
    assert set(modules) == {Q, K, TEXT, K.replace("to_k", "to_v")}, "in the first one's style"
    close(delta(result.adapter, Q), delta(kohya, Q) + 0.5 * delta(diffusers, Q_DIFFUSERS))
    close(delta(result.adapter, TEXT), delta(kohya, TEXT) + 0.5 * delta(diffusers, text))
    lines = {m.key: m for m in result.report.modules}
    assert lines[Q].block == "input_blocks.4.1.transformer_blocks.0" and lines[Q].role == "attn1.to_q"
    assert lines[K].decision == "kept" and lines[K].sources == [0] and lines[Q].sources == [0, 1]
    assert any("1 modules are in" in note for note in result.report.notes)
    back = merge([both(diffusers), both(kohya)], SUM).adapter
    assert back.layout == "diffusers" and all(key.startswith(("unet.", "text_encoder.")) for key in back.modules)


def test_the_model_is_recognised_once(monkeypatch):
    recognise, seen = architecture.known_names_of, []
    monkeypatch.setattr(
        architecture, "known_names_of", lambda adapters: seen.append(len(adapters)) or recognise(adapters)
    )
    merge([both(read(lora(Q, 640, 640, 4, seed))) for seed in (1, 2)], SUM)
    resize(read(lora(Q, 640, 640, 4, 1)))
    assert seen == [2, 1]


@pytest.mark.parametrize("fused_first", [True, False])
def test_fused_and_split_attention_meet(fused_first):
    """q, k, v of SD3 as one weight and as three: split or joined as the first file has them."""
    width = 128
    whole = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    keys = [f"transformer.transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    fused = read(lora(whole, 3 * width, width, 4, 1))
    split = read(*(lora(key, width, width, 3, i, spelling="peft") for i, key in enumerate(keys)))
    given = [both(fused), both(split, 0.5)]
    result = merge(given if fused_first else given[::-1], SUM).adapter
    want = delta(fused, whole) + 0.5 * torch.cat([delta(split, key) for key in keys])
    if fused_first:
        assert set(result.modules) == {whole}
        close(delta(result, whole), want)
    else:
        assert list(result.modules) == keys
        close(torch.cat([delta(result, key) for key in keys]), want)
        assert {m.rank for m in result.modules.values()} == {7}


def test_only_some_slices_beside_a_fused_weight():
    width = 128
    whole = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    keys = [f"transformer.transformer_blocks.0.attn.to_{x}" for x in "qv"]
    split = read(*(lora(key, width, width, 3, i, spelling="peft") for i, key in enumerate(keys)))
    fused = read(lora(whole, 3 * width, width, 4, 1))
    result = merge([both(split), both(fused)], SUM).adapter
    middle = "transformer.transformer_blocks.0.attn.to_k"
    assert set(result.modules) == {*keys, middle}
    close(delta(result, middle), delta(fused, whole)[width : 2 * width])
    close(delta(result, keys[1]), delta(split, keys[1]) + delta(fused, whole)[2 * width :])


def test_unknown_models_match_by_key():
    """No known family: the same key in two prefixes is one weight, and the first's spelling is written."""
    a = read(lora("lora_unet_body_layers_3_wide", 8, 6, 2, 1))
    b = read(*(lora(f"diffusion_model.body.layers.{i}.wide", 8, 6, 2, i) for i in (3, 4)))
    result = merge([both(a), both(b)], SUM)
    assert list(result.adapter.modules) == ["lora_unet_body_layers_3_wide", "diffusion_model.body.layers.4.wide"]
    assert result.report.modules[0].block == "body_layers_3"
    assert flat("lora_te2_text_model_x") == flat("text_encoder_2.text_model.x") == "te2_text_model_x"


def test_vectors_biases_and_differences_are_added_exactly():
    norm, gone = "diffusion_model.input_blocks.1.1.norm", "diffusion_model.out.2"
    a = read(
        {f"{norm}.w_norm": torch.ones(8), f"{norm}.b_norm": torch.ones(8)},
        lora(Q, 12, 10, 2, 1),
        {f"{Q}.diff_b": torch.ones(12)},
        {f"{gone}.diff": torch.ones(4, 6, 3, 3)},
    )
    b = read(
        {f"{norm}.w_norm": torch.full((8,), 2.0)},
        lora(Q, 12, 10, 2, 2),
        {f"{Q}.diff_b": torch.full((12,), 3.0)},
        lora(gone, 4, 6, 2, 3, kernel=(3, 3)),
    )
    result = merge([both(a, 2.0), both(b, -0.5)], MergeSettings(rank="max", dtype="fp32"))
    tensors = {key: m.tensors for key, m in result.adapter.modules.items()}
    assert torch.equal(tensors[norm][".w_norm"], torch.full((8,), 1.0))
    assert torch.equal(tensors[norm][".b_norm"], torch.full((8,), 2.0))
    assert torch.equal(tensors[Q][".diff_b"], torch.full((12,), 0.5))
    close(tensors[gone][".diff"], 2 * torch.ones(4, 6, 3, 3) - 0.5 * delta(b, gone))
    assert {m.key: m.decision for m in result.report.modules} == {norm: "summed", Q: "lego", gone: "summed"}
    assert adapters.from_state_dict(adapters.to_state_dict(result.adapter)).kinds == {"norm": 1, "lora": 1, "diff": 1}


def test_figures_are_those_of_the_dense_matrices():
    g = dice(3)
    sources = [LowRank(torch.randn(30, r, generator=g), torch.randn(r, 20, generator=g)) for r in (2, 5)]
    merged = LowRank(torch.randn(30, 3, generator=g), torch.randn(3, 20, generator=g))
    whole, out = sum(s.dense().double() for s in sources), merged.dense().double()
    got = figures(sources, merged)
    assert got["error"] == pytest.approx(float((out - whole).norm() / whole.norm()), rel=1e-5)
    assert got["cosine"] == pytest.approx(float((out * whole).sum() / out.norm() / whole.norm()), rel=1e-4)
    assert got["norm"] == pytest.approx(float(out.norm()), rel=1e-5)
    mean = sum(float(s.dense().norm()) ** 2 for s in sources) / 2
    assert got["source_norm"] == pytest.approx(mean**0.5, rel=1e-5)
    same = LowRank(torch.cat([s.up for s in sources], 1), torch.cat([s.down for s in sources]))
    assert figures(sources, same)["error"] < 1e-6


@pytest.fixture
def three():
    keys = [f"lora_unet_input_blocks_{n}_1_transformer_blocks_0_attn1_to_{x}" for n in (4, 5) for x in "qkv"]
    return [
        read(
            *(lora(key, 64, 64, r, 10 * r + i, dtype=torch.float16) for i, key in enumerate(keys)),
            metadata=trained(r),
            file=f"folder/{r}.safetensors",
        )
        for r in (4, 6, 8)
    ]


def trained(rank):
    tags = json.dumps({"1_x": {f"tag {rank}": rank}})
    return {
        "ss_network_dim": str(rank),
        "ss_network_module": "networks.lora",
        "ss_tag_frequency": tags,
        "ss_base_model_version": "sdxl_base_v1-0",
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_reports(three, method):
    result = merge(
        [both(a, s) for a, s in zip(three, (1.0, -0.5, 0.7), strict=True)], MergeSettings(method=method, rank="max")
    )
    assert len(result.adapter.modules) == 6
    for line in result.report.modules:
        assert line.ranks_in == [4, 6, 8] and line.decision == method
        assert line.rank_out == 18 if method in ("concat", "linear") else 1 <= line.rank_out <= 8
        want = sum(s * delta(a, line.key) for a, s in zip(three, (1.0, -0.5, 0.7), strict=True))
        got = delta(result.adapter, line.key)
        assert line.error == pytest.approx(float((got - want).norm() / want.norm()), abs=2e-3)
        assert line.norm_ratio == pytest.approx(float(got.norm() / want.norm()), rel=2e-3)
    assert method in result.provenance["method"] and result.report.summary()


def test_clusters_are_counted(three):
    result = merge([both(three[0]), both(three[1], 0.0), both(three[2])], MergeSettings(rank=6))
    for line in result.report.modules:
        assert line.sources == [0, 2] and line.clusters == 6 and len(line.pure) == 3
        assert sum(line.pure) + line.mixed == 6 and line.pure[1] == 0
    assert result.report.totals["clusters"] == 36
    assert plots.clusters(result.report).std() > 5
    assert plots.clusters(merge([both(a) for a in three], MergeSettings("svd")).report).std() > 5
    assert plots.clusters(MergeReport()).shape[1:] == (1024, 3)


def test_strength_zero_is_left_out_and_said(three):
    with_it = merge([both(three[0]), (three[1], 0.0, 0.0), both(three[2])], SUM)
    without = merge([both(three[0]), both(three[2])], SUM)
    for key, module in without.adapter.modules.items():
        assert torch.equal(module.delta(), with_it.adapter.modules[key].delta())
    assert any("6.safetensors has strength 0" in note for note in with_it.report.notes)


def test_one_lora_alone_is_pruned(three):
    result = merge([both(three[2])], MergeSettings(rank=5))
    assert {m.rank for m in result.adapter.modules.values()} == {5}
    assert {m.decision for m in result.report.modules} == {"lego"}
    assert "× 1 became a LoRA of rank 5" in result.report.summary()


@pytest.mark.parametrize(("rank", "want"), [("max", {8}), ("sum", {18}), (9, {9})])
def test_ranks(three, rank, want):
    result = merge([both(a) for a in three], MergeSettings("svd", rank=rank))
    assert {m.rank for m in result.adapter.modules.values()} == want


def test_auto_says_why(three):
    result = merge([both(a) for a in three], MergeSettings("svd", rank="auto"))
    assert all(1 - line.error**2 > 0.949 for line in result.report.modules)
    assert any("Rank auto" in note and "95%" in note for note in result.report.notes)


def test_the_same_inputs_give_the_same_bytes(three, tmp_path):
    for name in ("a", "b"):
        result = merge([both(a) for a in three], MergeSettings(rank=6, seed=3))
        adapters.write(result.adapter, tmp_path / f"{name}.safetensors", provenance=result.provenance)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["lego", "svd", "ties"])
def test_the_number_of_threads_changes_no_byte(three, tmp_path, method):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            result = merge([both(a) for a in three], MergeSettings(method, rank=6))
            adapters.write(result.adapter, tmp_path / f"{threads}.safetensors", provenance=result.provenance)
    finally:
        torch.set_num_threads(before)
    first, *others = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert all(other == first for other in others)


def test_a_merge_works_without_gradients(three):
    want = merge([both(a) for a in three]).adapter
    with torch.inference_mode():
        found = merge([both(a) for a in three]).adapter
    for key, module in want.modules.items():
        for suffix, tensor in module.tensors.items():
            assert torch.equal(found.modules[key].tensors[suffix], tensor)


def test_the_widest_dtype_wins(three):
    def dtypes(*given, **more):
        found = merge([both(a) for a in given], MergeSettings("svd", **more)).adapter.modules.values()
        return {t.dtype for m in found for s, t in m.tensors.items() if s != ".alpha"}

    key = next(iter(three[0].modules))
    half, brain = read(lora(key, 64, 64, 2, 1)), read(lora(key, 64, 64, 2, 1, dtype=torch.bfloat16))
    assert dtypes(*three) == {torch.float16}
    assert dtypes(three[0], half) == dtypes(three[0], brain) == {torch.float32}
    assert dtypes(brain) == {torch.bfloat16} and dtypes(half, dtype="bf16") == {torch.bfloat16}


def test_metadata_of_all_goes_in(three):
    metadata = merge([both(a) for a in three], MergeSettings("svd", rank=8)).adapter.metadata
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0" and metadata["ss_network_dim"] == "8"
    tags = json.loads(metadata["ss_tag_frequency"])
    assert {tag for folder in tags.values() for tag in folder} == {"tag 4", "tag 6", "tag 8"}


def test_report_through_json_and_markdown(three):
    report = merge([both(three[0], 0.5), (three[1], 1.0, 0.25)], MergeSettings(rank=5)).report
    again = MergeReport.from_json(report.to_json())
    assert again == report
    text = report.to_markdown()
    assert text.startswith("# 4.safetensors + 6.safetensors merged")
    assert "6.safetensors × 1 (text encoder 0.25)" in text and "| input_blocks.4.1.transformer_blocks.0 | 3 |" in text


def test_progress_and_cancel(three):
    seen = []
    merge([both(a) for a in three], SUM, progress=lambda *what: seen.append(what))
    assert [done for done, *_ in seen] == list(range(7)) and {total for _, total, _ in seen} == {6}

    def stop(done, total, label):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge([both(a) for a in three], SUM, progress=stop)
    assert not any(thread.name.startswith("lora_graft") for thread in threading.enumerate())


def test_the_base_is_read_by_the_calling_thread(dora):
    """A host's models are not made for other threads."""
    adapter, base, _ = dora
    load, readers = base.load, set()
    base.load = lambda *what: readers.add(threading.current_thread()) or load(*what)
    other = read(lora(Q, 48, 48, 4, 7), lora(K, 48, 48, 4, 8))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        merge([both(adapter), both(other)], MergeSettings("svd"), base=base)
    finally:
        torch.set_num_threads(before)
    assert readers == {threading.current_thread()}


def test_large_targets_are_merged_one_at_a_time(three, monkeypatch):
    want = merge([both(a) for a in three]).adapter
    monkeypatch.setattr(merge_module, "HEAVY", 0)
    monkeypatch.setattr(workers, "_as_caller", None)  # no worker could do anything
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = merge([both(a) for a in three]).adapter
    finally:
        torch.set_num_threads(before)
    assert list(found.modules) == list(want.modules)


# What needs the base


def sdxl_base(weights):
    return SimpleNamespace(
        label="base",
        architecture="SDXL",
        names=known_names("SDXL"),
        fingerprint="f",
        weights=lambda: {n: tuple(w.shape) for n, w in weights.items()},
        load=lambda name, rows=None: weights[name] if rows is None else weights[name][rows[0] : sum(rows)],
    )


@pytest.fixture
def dora():
    weight = torch.randn(48, 48, generator=dice(2)) / 7
    scale = weight.norm(dim=1, keepdim=True) * torch.linspace(0.9, 1.1, 48)[:, None]
    part = {k: t / 20 for k, t in lora(Q, 48, 48, 4, 6).items()}
    name = known_names("SDXL").resolve(Q).name
    return read(part, {f"{Q}.dora_scale": scale}, file="dora.safetensors"), sdxl_base({name: weight}), weight


def test_a_dora_without_its_base_is_refused(dora):
    with pytest.raises(AdapterError, match=f"(?s)dora.*dora.safetensors.*{Q}.*--base"):
        merge([both(dora[0]), both(read(lora(Q, 48, 48, 4, 1)))], SUM)


def test_a_dora_with_its_base_becomes_factors(dora):
    adapter, base, weight = dora
    other = read(lora(Q, 48, 48, 4, 1))
    result = merge([both(adapter, 0.5), both(other)], SUM, base=base)
    want = 0.5 * adapter.modules[Q].delta(weight).double() + delta(other, Q)
    close(delta(result.adapter, Q), want, 1e-4)
    assert result.provenance["base"] == "base"


def test_a_dora_that_no_other_lora_meets_stays_one(dora):
    other = read(lora(K, 48, 2048, 4, 1))
    result = merge([both(dora[0]), both(other)], SUM).adapter
    assert result.modules[Q].kind == "dora"
    with pytest.raises(AdapterError, match="--base"):
        merge([both(dora[0], 0.5), both(other)], SUM)


def test_loras_that_do_not_fit_the_base(dora):
    with pytest.raises(AdapterError, match="base"):
        merge([both(read(lora(Q, 50, 50, 4, 1)))], SUM, base=dora[1])
    with pytest.raises(AdapterError, match="none of the adapter's 1 modules belongs to base"):
        merge([both(read(lora("lora_unet_double_blocks_0_img_attn_qkv", 9, 3, 1, 1)))], SUM, base=dora[1])


# What cannot be


@pytest.mark.parametrize(
    ("strengths", "words"),
    [((), "empty"), (((0.0, 0.0),) * 2, "all strengths are 0"), (((1.0, 1.0), (float("nan"), 1.0)), "6.safetensors")],
)
def test_nothing_to_merge(three, strengths, words):
    with pytest.raises(SettingsError, match=words):
        merge([(a, *s) for a, s in zip(three, strengths, strict=False)], SUM)


def test_only_the_other_strength_is_zero():
    text_only = read(lora(TEXT, 20, 10, 2, 1))
    with pytest.raises(SettingsError, match="every module's strength is 0"):
        merge([(text_only, 1.0, 0.0)], SUM)


def test_a_rank_above_the_possible(three):
    with pytest.raises(SettingsError, match="rank 19 is above the possible.*18"):
        merge([both(a) for a in three], MergeSettings(rank=19))


@pytest.mark.parametrize(
    "settings",
    [
        dict(method="magic"),
        dict(rank=0),
        dict(rank="most"),
        dict(dtype="int8"),
        dict(units="round"),
        dict(density=0.0),
        dict(energy=2.0),
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(SettingsError):
        MergeSettings(**settings)


def test_different_architectures(three):
    flux = read(lora("lora_unet_double_blocks_0_img_attn_qkv", 30, 10, 2, 1), file="f.safetensors")
    with pytest.raises(AdapterError, match="different architectures: 4.safetensors .*f.safetensors"):
        merge([both(three[0]), both(flux)], SUM)
    wider = read(lora(next(iter(three[0].modules)), 80, 64, 2, 1), file="w.safetensors")
    with pytest.raises(AdapterError, match="64×64.*w.safetensors one of 80×64"):
        merge([both(three[0]), both(wider)], SUM)


def test_side_by_side_when_nothing_is_in_common(three):
    other = read(lora(K, 64, 2048, 3, 1), file="k.safetensors")
    result = merge([both(three[0]), both(other)], MergeSettings())
    assert len(result.adapter.modules) == 7 and {m.decision for m in result.report.modules} == {"kept"}
    assert any("no module in common" in note for note in result.report.notes)


def test_two_kinds_of_names_that_only_a_base_could_match():
    """A model of unknown sizes: kohya's and diffusers' block names cannot be told to be the same."""
    ours = read(lora("lora_unet_input_blocks_1_1_odd", 8, 8, 2, 1), file="a.safetensors")
    theirs = read(lora("unet.down_blocks.0.attentions.0.odd", 8, 8, 2, 2, spelling="peft"), file="b.safetensors")
    with pytest.raises(AdapterError, match="(?s)two different ways.*--base"):
        merge([both(ours), both(theirs)], SUM)


def test_values_that_do_not_fit_the_dtype():
    big = read({k: t * 1e5 for k, t in lora(Q, 8, 8, 2, 1).items()})
    with pytest.raises(AdapterError, match="do not fit float16"):
        merge([both(big)], MergeSettings("concat", dtype="fp16"))


def test_unknown_keys_of_all_files_are_kept(three):
    odd = read(lora(Q, 64, 64, 2, 1), {"strange.thing": torch.ones(3)})
    result = merge([both(three[0]), both(odd)], SUM)
    assert "strange.thing" in result.adapter.extras and result.report.extras == ["strange.thing"]


def test_the_names_used_here_exist():
    assert known_names("SDXL").resolve(Q) == known_names("SDXL").resolve(Q_DIFFUSERS)
    assert isinstance(names_for({"diffusion_model.x.weight": (2, 2)}).resolve("lora_unet_x"), WeightSlice)


@pytest.mark.parametrize("name", METHODS)
def test_settings_have_the_defaults_of_the_methods(name):
    given = MergeSettings(method=name)
    assert given.options() == {k: v for k, v in METHODS[name].options.items() if k != "restarts"}


def test_the_report_lists_the_settings_that_were_read():
    given = [both(read(lora(Q, 40, 30, 4, seed))) for seed in (1, 2)]
    for method, rank, own in (("ties", 3, ["density"]), ("svd", "auto", ["energy"]), ("dare", 3, ["density", "seed"])):
        settings = merge(given, MergeSettings(method=method, rank=rank)).report.settings
        assert sorted(settings) == sorted(["rank", "dtype", *own])
