"""Pictures of reports: right shape, right colours, no warnings, whatever the report lacks."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from lora_graft import plots
from lora_graft.jobs.report import ModuleReport, Report
from lora_graft.plots.grid import grid, ordered, rows, similarity

ROLES = ["attn1.q", "attn1.k", "attn1.v", "attn1.out", "attn2.q", "attn2.k", "ff.in", "ff.out"]


def report_of(blocks, roles=ROLES, job="transfer", value=lambda i: (i % 10) / 10, **more):
    modules = [
        ModuleReport(
            f"{block}.{role}",
            block=block,
            role=role,
            phi_left_corrected=value(i),
            phi_right_corrected=value(i),
            kept_energy=0.5,
            source_norm=1.0,
            decision="copy",
        )
        for i, (block, role) in enumerate((b, r) for b in blocks for r in roles)
    ]
    return Report(job, source="source", target="target", adapter="adapter", modules=modules, **more)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("count", [1, 10, 100])
@pytest.mark.parametrize("draw", [plots.heatmap, plots.kept_energy])
def test_pictures_of_any_size(draw, count):
    image = draw(report_of([f"output_blocks.{i}" for i in range(count)]))
    assert image.dtype == np.uint8 and image.shape[1:] == (1024, 3)
    assert 120 <= image.shape[0] <= 2048
    assert image.std() > 5  # something is drawn


def test_one_module():
    assert plots.heatmap(report_of(["b"], ["q"])).shape[2] == 3


@pytest.mark.parametrize("draw", [plots.heatmap, plots.kept_energy])
@pytest.mark.parametrize(
    "report",
    [
        Report("compare"),
        report_of(["a", "b"], value=lambda i: None),
        report_of(["a", "b"], job="compare", value=lambda i: None if i % 3 else 0.5),
        Report("transfer", modules=[ModuleReport("w"), ModuleReport("v", decision="dropped")]),
    ],
    ids=["empty", "no similarity", "some similarity", "nothing measured"],
)
def test_missing_figures_are_no_trouble(draw, report):
    assert draw(report).ndim == 3


def test_names_the_font_lacks_and_dollars_are_drawn_without_warnings():
    report = report_of(["ブロック.1", "$x_1$"])
    report.source, report.adapter = "モデル.safetensors", "$a_b$" * 40
    assert plots.heatmap(report).ndim == 3
    assert plots.kept_energy(report).ndim == 3


def test_colour_follows_the_value():
    """A heat map of ones is viridis yellow, of zeros violet; a cell nobody measured is grey."""
    from matplotlib import colormaps

    for value, colour in ((1.0, colormaps["viridis"](1.0)), (0.0, colormaps["viridis"](0.0)), (None, (220 / 255,) * 3)):
        report = report_of(["a", "b"], ["q", "k"], job="compare", value=lambda i, v=value: v if i else 0.5)
        image = plots.heatmap(report)
        wanted = np.round(np.array(colour[:3]) * 255)
        share = (np.abs(image.astype(int) - wanted) <= 1).all(axis=2).mean()
        assert share > 0.2


def test_a_transfer_shows_two_panels_and_a_comparison_one():
    def columns(job):
        image = plots.heatmap(report_of(["a", "b"], ["q"], job=job, value=lambda i: 1.0)).astype(int)
        yellow = (np.abs(image - [253, 231, 37]) <= 1).all(axis=2).mean(axis=0) > 0.2
        teal = (np.abs(image - [33, 145, 140]) <= 2).all(axis=2).mean(axis=0) > 0.2
        return yellow.sum(), teal.sum()

    assert columns("transfer")[1] > 100 and columns("compare")[1] == 0
    assert columns("compare")[0] > columns("transfer")[0] > 100


def test_grid_averages_a_cell_and_leaves_holes():
    report = report_of(["x.1", "x.2"], ["q", "k"], value=lambda i: i / 4)
    report.modules.append(ModuleReport("again", block="x.1", role="q", phi_left_corrected=1.0))
    report.modules.append(ModuleReport("far", block="y", role="v"))
    blocks, roles, table = grid(report, similarity)
    assert (blocks, roles) == (["x.1", "x.2", "y"], ["q", "k", "v"])
    np.testing.assert_allclose(table, [[0.5, 0.25, np.nan], [0.5, 0.75, np.nan], [np.nan] * 3])


def test_blocks_are_ordered_by_number_within_their_family():
    assert ordered(["in.10", "in.2", "mid", "out.1", "in.1", "out.0"]) == [
        "in.1",
        "in.2",
        "in.10",
        "mid",
        "out.0",
        "out.1",
    ]


def test_png_round_trip_and_nothing_left_when_it_fails(tmp_path):
    from matplotlib.image import imread

    image = plots.heatmap(report_of(["a"]))
    path = plots.save(image, tmp_path / "map.png")
    np.testing.assert_array_equal(np.round(imread(path)[..., :3] * 255).astype(np.uint8), image)
    with pytest.raises((TypeError, ValueError)):
        plots.save(np.zeros((3, 3, 7), np.uint8), tmp_path / "bad.png")
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys\nfrom lora_graft import plots\nfrom lora_graft.jobs.report import Report, ModuleReport\n"
        "assert 'matplotlib' not in sys.modules\n"
        "m = ModuleReport('w', kept_energy=1.0, phi_left_corrected=.5)\n"
        "plots.heatmap(Report('transfer', modules=[m]))\n"
        "plots.encode(plots.kept_energy(Report('transfer', modules=[m])))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_deep_unet_shares_rows():
    deep = [f"input_blocks.7.1.transformer_blocks.{i}" for i in range(70)]
    assert list(rows(report_of(deep[:3]))) == ["in.7.1.t.0", "in.7.1.t.1", "in.7.1.t.2"]
    merged = rows(report_of([*deep, "middle_block.1"]))
    assert {name: len(modules) for name, modules in merged.items()} == {"in.7.1": 560, "mid.1": 8}
