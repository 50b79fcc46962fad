"""The tab and the routes in a real Automatic1111, Forge or Forge Neo (see real_host.py), in a real browser."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_sd
from real_host import NAMES, find, started

sys.path.append(str(Path(__file__).resolve().parents[1] / "browser"))
from editor import FLAGS, find_chromium

LONG = 60_000  # milliseconds until a test that hangs fails
TABS = ["Transfer", "Merge", "Resize", "Similarity", "Convert", "Inspect", "Shelf"]
BASES = {"source": "old.safetensors", "target": "new.safetensors"}


@pytest.fixture(scope="module", params=NAMES)
def real(request, tmp_path_factory):
    found = find(request.param)
    if isinstance(found, str):
        pytest.skip(found)
    with started(request.param, tmp_path_factory.mktemp(request.param) / "data") as host:
        yield host


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if find_chromium() is None:
        pytest.skip("no browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(chromium, host, width=1300, theme="light"):
    """The host's page with our tab chosen; no script failed when it closes."""
    page = chromium.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(LONG)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{host.address}/?__theme={theme}")
    ours(page)
    try:
        yield page
    finally:
        page.context.close()
    assert problems == []


def ours(page) -> None:
    tab = page.locator("#tabs button", has_text=re.compile(r"^\s*LoRA Graft\s*$")).first
    tab.wait_for()
    page.wait_for_function("() => window.gradioApp && gradioApp().querySelector('#txt2img_prompt textarea')")
    page.wait_for_timeout(2000)  # the host's own scripts move tabs about
    tab.click()
    page.locator("#lora_graft_transfer_start").first.wait_for()


def choose(page, box: str, text: str) -> None:
    page.locator(f"#lora_graft_{box} input").first.click()
    page.locator(f"#lora_graft_{box} input").first.fill(text)
    page.locator(f"#lora_graft_{box} [role=option], #lora_graft_{box} .options li", has_text=text).first.click()


def test_a_lora_is_moved_on_the_page_and_drawn_by_the_host(real, chromium):
    with opened(chromium, real) as page:
        choose(page, "transfer_lora", "style")
        choose(page, "transfer_source", "old")
        choose(page, "transfer_target", "new")
        page.locator("#lora_graft_transfer_output input, #lora_graft_transfer_output textarea").first.fill("moved")
        page.locator("button#lora_graft_transfer_start").click()
        result = page.locator("#lora_graft_result").first  # Gradio 3 writes an id twice
        result.locator("p", has_text=re.compile(r"style.*: done")).first.wait_for()
        assert "<lora:moved:1>" in result.inner_text() and "18 of 18 modules" in result.inner_text()
        assert result.locator("img").evaluate("image => image.naturalWidth") > 500
        result.locator("button", has_text="Send to txt2img").click()
        prompt = page.locator("#txt2img_prompt textarea").first
        prompt.wait_for(state="visible")
        assert prompt.input_value() == "<lora:moved:1>"
    assert "moved" in [lora["name"] for lora in real.ask("sdapi/v1/loras")], "the host knows it without a refresh"
    base, moved = real.draw("a cat"), real.draw("a cat <lora:moved:1>")
    assert base.std() > 5 and np.abs(moved - base).mean() > 5
    assert np.array_equal(real.draw("a cat <lora:moved:0>"), base)


def test_the_drawn_picture_is_that_of_the_lora_applied_by_hand(real):
    """In plain arithmetic, under the checkpoint's own names."""
    from safetensors.torch import load_file, save_file

    job = real.job("transfer", lora="style", **BASES, output="byhand")
    assert real.ended(job)["state"] == "done"
    models = real.data / "models" / "Stable-diffusion"
    weights, lora = load_file(models / "new.safetensors"), load_file(real.loras / "byhand.safetensors")
    blocks = {"down_blocks_0": "input_blocks.1.1", "mid_block": "middle_block.1", "up_blocks_0": "output_blocks.0.1"}
    pattern = r"lora_unet_(\w+)_attentions_0_transformer_blocks_0_(attn\d)_(\w+)\.lora_up\.weight"
    for key in filter(re.compile(pattern).fullmatch, lora):
        block, attention, layer = re.fullmatch(pattern, key).groups()
        inner = f"transformer_blocks.0.{attention}.{layer.replace('_0', '.0')}.weight"
        name = f"model.diffusion_model.{blocks[block]}.{inner}"
        stem = key.removesuffix(".lora_up.weight")
        up, down = lora[key].float(), lora[f"{stem}.lora_down.weight"].float()
        scale = lora[f"{stem}.alpha"].item() / down.shape[0]
        weights[name] = weights[name].float() + scale * up @ down
    save_file(weights, models / "applied.safetensors")
    (models / "applied.yaml").write_bytes((models / "new.yaml").read_bytes())
    real.ask("sdapi/v1/refresh-checkpoints", {})
    told, plain = real.draw("a cat <lora:byhand:1>"), real.draw("a cat")
    by_hand = real.draw("a cat", "applied")
    assert np.abs(told - by_hand).mean() < 0.05 * np.abs(told - plain).mean()


def shelf(real, count: int = 60) -> dict:
    """Settings of a long job: a shelf of LoRAs, one of them broken."""
    from safetensors.torch import save_file

    folder = real.loras / "shelf"
    if not folder.is_dir():
        folder.mkdir()
        for number in range(count):
            save_file(tiny_sd.lora(number), folder / f"s{number:02}.safetensors")
        (folder / "s30.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    names = [f"shelf/{file.stem}" for file in sorted(folder.iterdir())]
    return {"shelf": names, **BASES, "method": "prolora"}


def test_the_hosts_progress_shows_a_job_and_its_interrupt_stops_it(real):
    job = real.job("shelf", **shelf(real), folder="interrupted")
    shown = real.until(real.progress, lambda told: 0.01 < told["progress"] < 1)
    assert shown["state"]["job"] == "lora_graft"
    real.ask("sdapi/v1/interrupt", {})
    assert real.ended(job)["state"] == "stopped"
    assert real.progress()["progress"] == 0
    written = list((real.loras / "interrupted").glob("*.safetensors"))
    assert len(written) < 59 and not list((real.loras / "interrupted").glob("*.tmp*"))
    after = real.job("resize", lora="style", amount=2)
    assert real.ended(after)["state"] == "done", "the interrupt was for that job alone"


def test_stop_on_the_page_and_the_job_there_after_reload_ui(real, chromium):
    with opened(chromium, real) as page:
        job = real.job("shelf", **shelf(real), folder="stopped")
        listed = page.locator("#lora_graft_jobs").first.locator("[role=listitem]", has_text=f"{job}: Shelf")
        listed.locator("progress").wait_for()
        page.locator("button#lora_graft_stop").click()
        assert real.ended(job)["state"] == "stopped"
        page.locator("#lora_graft_result").first.locator(
            "p", has_text=re.compile(rf"^{job}: .*stopped")
        ).first.wait_for()
        starts = real.starts
        page.evaluate("gradioApp().getElementById('settings_restart_gradio').click()")
        real.until(lambda: real.starts, lambda seen: seen > starts)
    with opened(chromium, real) as page:
        page.locator("#lora_graft_jobs").first.locator("[role=listitem]", has_text=f"{job}: Shelf").wait_for()
        page.locator("#lora_graft_tabs button", has_text=re.compile(r"^\s*Inspect\s*$")).first.click()
        choose(page, "inspect_lora", "style")
        page.locator("button#lora_graft_inspect_start").click()
        page.locator("#lora_graft_result").first.locator(
            "p", has_text=re.compile(r"Inspect, style: done")
        ).first.wait_for()


def test_a_job_waits_behind_the_hosts_own_picture(real):
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(real.draw, "a cat", steps=100)
        real.until(real.progress, lambda told: told["progress"] > 0.02)
        job = real.job("resize", lora="style", amount=3)
        assert real.told(job)["state"] == "waiting" and not drawing.done()
        drawing.result()
    assert real.ended(job)["state"] == "done"


def test_the_routes_are_the_hosts_and_nobody_else_comes_in(real):
    assert "/lora-graft/v1/jobs/transfer" in real.ask("openapi.json")["paths"]
    assert {"old.safetensors", "new.safetensors"} <= set(real.ask("lora-graft/v1/bases")["bases"])
    assert "style" in real.ask("lora-graft/v1/loras")["loras"]
    inside = {"lora": "style", **BASES}
    for body, headers, status in (
        ({**inside, "lora": "../../config"}, {}, 422),
        ({**inside, "output": "../out"}, {}, 422),
        (inside, {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}, 403),
        (inside, {"Content-Type": "text/plain"}, 415),
    ):
        assert real.status("lora-graft/v1/jobs/transfer", body, **headers) == status, (body, headers)
    job = real.ended(real.job("transfer", **inside, output="once"))
    assert job["state"] == "done"
    assert real.status("lora-graft/v1/jobs/transfer", {**inside, "output": "once"}) == 422, "nothing is overwritten"


def test_the_settings_page_chooses_the_folder_for_results(real):
    real.ask("sdapi/v1/options", {"lora_graft_folder": "grafted"})
    try:
        assert real.ended(real.job("resize", lora="style", amount=2, output="small"))["state"] == "done"
    finally:
        real.ask("sdapi/v1/options", {"lora_graft_folder": ""})
    assert (real.loras / "grafted" / "small.safetensors").is_file()


PALEST = """() => new Promise(done => {
  let found = 1;
  const end = Date.now() + 3000, look = () => {
    for (let part of document.querySelectorAll('.lora-graft-job, .lora-graft-report'))
      for (; part.id !== 'lora_graft_page'; part = part.parentElement)
        found = Math.min(found, getComputedStyle(part).opacity);
    Date.now() < end ? requestAnimationFrame(look) : done(found);
  };
  look();
})"""


def test_what_is_read_stays_still(real, chromium):
    """While the page asks for news, each second, nothing pales."""
    job = real.job("inspect", lora="style")
    assert real.ended(job)["state"] == "done"
    with opened(chromium, real) as page:
        page.locator("#lora_graft_result").first.locator("p", has_text=re.compile(rf"^{job}: ")).first.wait_for()
        assert page.evaluate(PALEST) == 1


@pytest.mark.parametrize("width, theme", [(1300, "dark"), (420, "light")])
def test_every_tab_can_be_seen(real, chromium, width, theme):
    with opened(chromium, real, width, theme) as page:
        before = page.evaluate("document.documentElement.scrollWidth")
        for name in TABS:
            page.locator("#lora_graft_tabs button", has_text=re.compile(rf"^\s*{name}\s*$")).first.click()
            button = page.locator(f"button#lora_graft_{name.lower()}_start")
            button.wait_for(state="visible")
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
            assert page.evaluate("document.documentElement.scrollWidth") <= max(before, width), name
