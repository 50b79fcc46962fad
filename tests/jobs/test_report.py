"""The report keeps its numbers through JSON, adds them up as stated, and reads well."""

import json
import math

import pytest
from lora_graft.jobs.text import table
from lora_graft.jobs.transfer.report import ModuleReport, Report, kept_energy
from markdown_it import MarkdownIt


def module(name="a.weight", **more):
    figures = {"phi_left": 0.9, "phi_right": 0.7, "phi_left_corrected": 0.88, "phi_right_corrected": 0.6}
    plain = {"matched": name, "block": "input_blocks.1.1", "role": "attn1.to_q", "source_norm": 2.0, "kept_energy": 0.5}
    return ModuleReport(name, **{**figures, **plain, "shape": [64, 64], "k": 16, "decision": "copy", **more})


@pytest.fixture
def report():
    dropped = ModuleReport("c.weight", block="middle_block.1", source_norm=1.0, decision="dropped", reason="too wide")
    return Report(
        "transfer",
        source="A",
        target="B",
        adapter="frame",
        method_asked="auto",
        method="copy",
        settings={"k_share": 0.25},
        modules=[module(rows=(0, 64)), module("b.weight", source_norm=1.0, kept_energy=1.0), dropped],
        unmatched=["lora_unet_c"],
        extras=["strange|key"],
        advice="copy",
        advice_reason="The bases are close relatives.",
        notes=["first", "second"],
        elapsed=1.5,
        copy_baseline={"kept_energy": 1.0},
    )


def test_energy_is_weighed_by_the_size_of_each_update(report):
    assert report.totals["kept_energy"] == pytest.approx((0.5 * 4 + 1.0 * 1 + 0.0 * 1) / 6)
    assert report.totals["norm_ratio"] == pytest.approx(math.sqrt(0.5))


def test_energy_without_norms_is_the_plain_mean_and_without_figures_nothing():
    assert kept_energy([module(source_norm=None), module(source_norm=None, kept_energy=1.0)]) == pytest.approx(0.75)
    assert kept_energy([module(kept_energy=None)]) is None
    assert kept_energy([]) is None


def test_totals_count_and_average_what_was_measured(report):
    totals = report.totals
    assert (totals["modules"], totals["matched"], totals["dropped"], totals["unmatched"]) == (3, 2, 1, 1)
    assert totals["decisions"] == {"copy": 2, "dropped": 1}
    assert totals["mean_similarity"] == pytest.approx(0.74)
    assert module(phi_left_corrected=None).similarity == pytest.approx(0.6)


def test_json_round_trip(report):
    assert Report.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["totals"]["modules"] == 3


def test_json_stays_valid_with_numbers_that_are_not_finite():
    text = Report("compare", modules=[module(phi_left=math.nan, kept_energy=math.inf)]).to_json()
    assert "NaN" not in text and "Infinity" not in text
    assert Report.from_json(text).modules[0].phi_left is None


def test_json_of_a_later_version_is_still_read(report):
    data = json.loads(report.to_json()) | {"news": 1}
    data["modules"][0]["more_news"] = 2
    assert Report.from_json(json.dumps(data)) == report


def test_markdown_puts_sentences_before_tables(report):
    text = report.to_markdown()
    assert text.startswith("# frame: from A to B")
    assert text.index("close relatives") < text.index("| block |") < text.index("| module |")
    assert "`a.weight[0:64]`" in text and "too wide" in text and "`strange|key`" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {9, 17}  # every row has all its cells


def test_a_bar_in_a_name_does_not_break_the_table():
    row = Report("compare", modules=[module("a|b")]).to_markdown().splitlines()[-1]
    assert "a\\|b" in row


def test_summary_says_how_much_moved_and_what_to_do(report):
    text = report.summary()
    assert "2 of 3 modules" in text and "chosen automatically" in text and "50 %" in text
    assert text.endswith("The bases are close relatives.")


def test_an_empty_report_still_speaks():
    empty = Report("compare", source="A", target="B")
    assert empty.totals["mean_similarity"] is None
    assert "0 weights of A" in empty.to_markdown()
    assert Report.from_json(empty.to_json()) == empty


def test_blocks_and_roles_keep_their_order(report):
    assert list(report.blocks()) == ["input_blocks.1.1", "middle_block.1"]
    assert list(report.roles()) == ["attn1.to_q", "other"]


def test_a_table_is_one_to_a_markdown_reader():
    """Names from files stay text, the table around them a table."""
    text = table(("module", "Φ"), [["`to_k`", "0.5"], ["a | b", "---"], ["<b>x</b>", "[y](z)"]])
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.count("<table>") == 1 and page.count("<tr>") == 4 and page.count("<th>") == 2
    assert "<code>to_k</code>" in page and "a | b" in page
    assert "<b>" not in page and "<a " not in page
