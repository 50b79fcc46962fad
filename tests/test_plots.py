"""Pictures of reports: right shape, right colours, no warnings, whatever the report lacks."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from lora_graft import plots
from lora_graft.jobs.transfer.report import ModuleReport, Report
from lora_graft.plots.grid import grid, ordered, rows, similarity
from lora_graft.plots.sheet import LEFT

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
def test_pictures_of_any_size(count):
    image = plots.heatmap(report_of([f"output_blocks.{i}" for i in range(count)]))
    assert image.dtype == np.uint8 and image.shape[1:] == (1024, 3)
    assert 120 <= image.shape[0] <= 2048
    assert image.std() > 5  # something is drawn


def test_one_module():
    assert plots.heatmap(report_of(["b"], ["q"])).shape[2] == 3


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
def test_missing_figures_are_no_trouble(report):
    assert plots.heatmap(report).ndim == 3


def test_names_the_font_lacks_and_dollars_are_drawn_without_warnings():
    report = report_of(["ブロック.1", "$x_1$"])
    report.source, report.adapter = "モデル.safetensors", "$a_b$" * 40
    assert plots.heatmap(report).ndim == 3


def test_colour_follows_the_value():
    """A heat map of ones is viridis yellow, of zeros violet; a cell nobody measured is grey."""
    from matplotlib import colormaps

    for value, colour in ((1.0, colormaps["viridis"](1.0)), (0.0, colormaps["viridis"](0.0)), (None, (220 / 255,) * 3)):
        report = report_of(["a", "b"], ["q", "k"], job="compare", value=lambda i, v=value: v if i else 0.5)
        image = plots.heatmap(report)
        wanted = np.round(np.array(colour[:3]) * 255)
        share = (np.abs(image.astype(int) - wanted) <= 1).all(axis=2).mean()
        assert share > 0.2


def test_what_the_threshold_left_out_is_hatched():
    """White stripes over the cell, in both panels, and a word that says so; nothing of it without such a module."""
    plain = report_of(["a", "b"], ["q"], value=lambda i: 0.2)
    some = report_of(["a", "b"], ["q"], value=lambda i: 0.2)
    some.modules[1].decision = "left out"
    before, after = (plots.heatmap(report).astype(int) for report in (plain, some))
    stripes = (after - before > 40).all(axis=2)
    rows, half = np.nonzero(stripes)[0], stripes.shape[1] // 2
    assert stripes[:, :half].sum() > 500 and stripes[:, half:].sum() > 500
    assert rows.min() > before.shape[0] // 3, "the first row is not hatched"
    assert (after[-30:, :200] != before[-30:, :200]).any()


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
        "import sys\nfrom lora_graft import plots\nfrom lora_graft.jobs.transfer.report import Report, ModuleReport\n"
        "assert 'matplotlib' not in sys.modules\n"
        "m = ModuleReport('w', kept_energy=1.0, phi_left_corrected=.5)\n"
        "plots.encode(plots.heatmap(Report('transfer', modules=[m])))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_deep_unet_shares_rows():
    deep = [f"input_blocks.7.1.transformer_blocks.{i}" for i in range(70)]
    assert list(rows(report_of(deep[:3]))) == ["in.7.1.t.0", "in.7.1.t.1", "in.7.1.t.2"]
    merged = rows(report_of([*deep, "middle_block.1"]))
    assert {name: len(modules) for name, modules in merged.items()} == {"in.7.1": 560, "mid.1": 8}


def pictures(count, height=8, width=8, value=1.0):
    return np.full((count, height, width, 3), value)


def test_contact_sheet_puts_each_picture_in_its_place():
    """Rows may be of different lengths; what is missing stays white."""
    from lora_graft.plots.sheet import GAP, LEFT

    red = np.zeros((2, 8, 8, 3))
    red[..., 0] = 1
    sheet = plots.contact_sheet([("before", red), ("after\nand later", pictures(3, value=0.5))])
    assert sheet.dtype == np.uint8 and sheet.shape == (2 * (64 + GAP) + GAP, LEFT + 3 * (64 + GAP), 3)
    second = LEFT + 64 + GAP
    assert (sheet[GAP : GAP + 64, second : second + 64] == [255, 0, 0]).all()
    third = LEFT + 2 * (64 + GAP)
    assert (sheet[GAP : GAP + 64, third:] == 255).all()
    assert (sheet[2 * GAP + 64 : 2 * GAP + 128, third : third + 64] == 128).all()
    for row in range(2):
        assert (sheet[GAP + row * (64 + GAP) :][:64, :LEFT] < 128).any(), "a label"


def test_contact_sheet_of_nothing():
    for given in ([], [("nothing", pictures(0))], [("nothing", pictures(0)), ("one", pictures(1))]):
        sheet = plots.contact_sheet(given)
        assert sheet.dtype == np.uint8 and sheet.ndim == 3 and min(sheet.shape) > 0


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ((8, 8), None),
        ((64, 64), None),
        ((33, 21), None),
        ((500, 300), None),
        ((7, 90), None),
        ((1, 1), None),
        ((64, 64), 17),
    ],
)
def test_contact_sheet_of_odd_sizes(size, tile):
    from lora_graft.plots.sheet import GAP, LEFT

    sheet = plots.contact_sheet([("a", pictures(2, *size, value=0.0))], tile=tile)
    height = tile or min(max(size[0], 64), 192)
    across = max(1, round(height * size[1] / size[0]))
    assert sheet.shape == (height + 2 * GAP, LEFT + 2 * (across + GAP), 3)
    assert (sheet[GAP : GAP + height, LEFT : LEFT + across] == 0).all()


def test_contact_sheet_of_pictures_that_differ_in_size_or_have_bad_values():
    bad = pictures(1, 16, 16)
    bad[0, 0, 0] = np.nan, np.inf, -np.inf
    sheet = plots.contact_sheet([("a", pictures(1, 64, 64)), ("b", pictures(2, 40, 56, 0.25)), ("$x_1$ ブ", bad)])
    assert sheet.dtype == np.uint8
    assert (sheet[:, LEFT:] == 64).all(axis=2).sum() == 2 * 64 * 64, "the labels left of it have greys of their own"


def curve_of(losses, checks, measured=True):
    from lora_graft.jobs.distill.report import DistillReport

    return DistillReport(
        source="a",
        target="b",
        adapters=["x"],
        objective="difference",
        reason="",
        kind="LoRA",
        rank=4,
        where="",
        modules=1,
        steps=len(losses),
        asked=10,
        best=checks[-1][0] if checks else 0,
        losses=losses,
        checks=checks,
        measured=measured,
        effect=1.0,
        learning_rate=0.01,
        resumed=0,
        trouble="",
        start="nothing",
        evaluations={},
        samples=1,
    )


CHECKS = [(0, 0.0), (5, 0.6), (10, 0.9)]


@pytest.mark.parametrize(
    ("losses", "checks"),
    [
        ([3.0, 2.0, 1.0], CHECKS),
        ([], [(0, 0.0)]),
        ([], []),
        ([1.0], [(0, 0.0), (1, -50.0)]),
        ([1.0, float("nan"), 2.0], [(0, 0.0), (1, float("-inf")), (2, 0.5)]),
        ([float("nan")], [(0, float("nan"))]),
        ([float("inf"), 1.0], CHECKS),
        ([0.0, 0.0], [(0, 1.0), (2, 1.0)]),
    ],
    ids=["usual", "no steps", "nothing", "worse", "broken", "all broken", "infinite", "perfect"],
)
@pytest.mark.parametrize("measured", [True, False])
def test_loss_curve_of_any_run(losses, checks, measured):
    image = plots.loss_curve(curve_of(losses, checks, measured))
    assert image.dtype == np.uint8 and image.shape == (420, 768, 3) and image.std() > 5
    assert plots.loss_curve(curve_of(losses, checks, measured), 400, 300).shape == (300, 400, 3)


def test_loss_curve_shows_both_lines():
    def blue(image):
        return (np.abs(image.astype(int) - [0, 114, 178]) <= 8).all(axis=2)

    with_share = blue(plots.loss_curve(curve_of([3.0, 2.0, 1.0, 0.5], [(0, 0.0), (4, 1.0)])))
    without = blue(plots.loss_curve(curve_of([3.0, 2.0, 1.0, 0.5], [])))
    assert with_share.sum() > 300 > without.sum()
    rows, columns = np.nonzero(with_share)
    assert rows[columns.argmin()] > rows[columns.argmax()] + 200, "the share rises from left to right"


def test_cells_are_the_heat_map_as_plain_values():
    report = report_of(["b.10", "b.2"], ["q", "k"], value=lambda i: None if i == 3 else i / 10)
    report.modules.append(ModuleReport("n", block="b.2", role="n", decision="left out"))
    found = plots.cells(report)
    assert json.loads(json.dumps(found)) == found
    assert found["rows"] == ["b.2", "b.10"] and found["columns"] == ["q", "k", "n"]
    assert found["modules"] == [[1, 0], [1, 1], [0, 0], [0, 1], [0, 2]] and found["left_out"] == [[0, 2]]
    similar, kept = found["panels"]
    assert similar["title"] == "similarity beyond chance" and similar["values"] == [[0.2, None, None], [0.0, 0.1, None]]
    assert kept["title"] == "kept energy" and kept["values"] == [[0.5, 0.5, None], [0.5, 0.5, None]]


@pytest.mark.parametrize("report", [Report("compare"), report_of(["a"], value=lambda i: None, job="compare")])
def test_there_are_no_cells_where_nothing_was_measured(report):
    assert plots.cells(report) is None
