"""``lora-graft ui`` in a real browser, as a new user: one command, a page, a moved LoRA."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "browser"))
from editor import FLAGS, find_chromium

pytest.importorskip("gradio", minversion="6", reason="gradio 6 is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if find_chromium() is None:
    pytest.skip("no browser", allow_module_level=True)

LONG = 300_000  # milliseconds until a test that hangs fails
HOSTILE = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"


@pytest.fixture(scope="module")
def folders(family_files, tmp_path_factory):
    """Two bases; a LoRA, one whose metadata is hostile, and one that is broken."""
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("ui")
    bases, loras = root / "bases", root / "loras"
    bases.mkdir(), loras.mkdir()
    for letter in "ab":
        (bases / f"base_{letter}.safetensors").hardlink_to(family_files[f"family_{letter}"])
    tensors = load_file(family_files["family_frame_a"])
    save_file(tensors, loras / "frame.safetensors")
    save_file(tensors, loras / "hostile.safetensors", {"ss_tag_frequency": json.dumps({"x": {HOSTILE: 1}})})
    (loras / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    return bases, loras


@pytest.fixture(scope="module")
def address(folders, tmp_path_factory):
    """Where the page is, from what the command prints."""
    bases, loras = folders
    command = [sys.executable, "-m", "lora_graft", "ui", "--bases", bases, "--loras", loras, "--language", "en"]
    cache = str(tmp_path_factory.mktemp("cache"))
    environment = {**os.environ, "LORA_GRAFT_CACHE": cache, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=cache)
    try:
        line = server.stdout.readline()
        yield re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(chromium, address):
    """A page that has loaded; when it closes, nothing was asked of other servers and no script failed."""
    page = chromium.new_context(viewport={"width": 1300, "height": 900}).new_page()
    page.set_default_timeout(LONG)
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.locator("#lora_graft_transfer_start").wait_for()
    page.wait_for_timeout(1000)
    try:
        yield page
    finally:
        page.context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert problems == []


def choose(page, box: str, text: str) -> None:
    """Search in a list and take what is found, by mouse."""
    page.locator(f"#lora_graft_{box} input").first.click()
    page.locator(f"#lora_graft_{box} input").first.fill(text)
    page.locator("[role=option]", has_text=text).first.click()


def start(page, kind: str) -> int:
    """Press start by the keyboard; the job's number."""
    look = "kind => document.querySelector(`#lora_graft_${kind}_notice .lora-graft-said`)?.textContent ?? ''"
    before = page.evaluate(look, kind)
    page.locator(f"button#lora_graft_{kind}_start").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"([kind, before]) => ![before, ''].includes(({look})(kind))", arg=[kind, before])
    return int(re.search(r"Job (\d+)", page.evaluate(look, kind))[1])


def brought(page, number: int, state: str):
    """The result of a job, when it has ended so."""
    result = page.locator("#lora_graft_result")
    result.locator("p", has_text=re.compile(rf"^{number}: .*: {state}")).first.wait_for()
    return result


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_a_lora_is_moved_from_a_page_that_was_just_opened(chromium, address, folders):
    with opened(chromium, address) as page:
        choose(page, "transfer_lora", "frame")
        choose(page, "transfer_source", "base_a")
        choose(page, "transfer_target", "base_b")
        page.locator("#lora_graft_transfer_output input, #lora_graft_transfer_output textarea").first.fill("moved")
        result = brought(page, start(page, "transfer"), "done")
        assert "<lora:moved:1>" in result.inner_text() and "15 of 15 modules" in result.inner_text()
        assert result.locator("img").evaluate("image => image.naturalWidth") > 500
        assert result.locator("table").count() == 2
        assert result.locator("button", has_text="Send").count() == 0, "alone there is no txt2img"
        page.locator("button#lora_graft_transfer_start").click()
        alert = page.locator("#lora_graft_transfer_notice [role=alert]")
        alert.wait_for()
        assert "moved.safetensors exists already" in alert.inner_text()
    from lora_graft import adapters

    assert len(adapters.read(folders[1] / "moved.safetensors").modules) == 15


def test_metadata_never_becomes_html_and_a_broken_file_is_told(chromium, address):
    with opened(chromium, address) as page:
        tab(page, "Inspect")
        choose(page, "inspect_lora", "hostile")
        result = brought(page, start(page, "inspect"), "done")
        assert "onerror" in result.inner_text(), "it is shown as text"
        choose(page, "inspect_lora", "broken")
        result = brought(page, start(page, "inspect"), "failed")
        assert "broken.safetensors" in result.locator("[role=alert]").inner_text()
        assert page.evaluate("window.hit") is None


def test_loras_are_put_into_the_text_and_merged(chromium, address, folders):
    with opened(chromium, address) as page:
        tab(page, "Merge")
        page.locator("#lora_graft_merge_loras textarea").fill("a cat <lora:frame:0.5>, oil painting")
        choose(page, "merge_add", "hostile")
        page.wait_for_function(
            "() => document.querySelector('#lora_graft_merge_loras textarea').value.includes('<lora:hostile:1>')"
        )
        result = brought(page, start(page, "merge"), "done")
        assert "<lora:frame+hostile-merged:1>" in result.inner_text()
    assert (folders[1] / "frame+hostile-merged.safetensors").is_file()


def test_a_job_goes_on_without_a_page_is_on_every_page_and_stops(chromium, address):
    settings = {"loras": "<lora:frame>", "source": "base_a.safetensors", "target": "base_b.safetensors"}
    settings |= {
        "prompts": ["red digit two", "a green three"],
        "steps": 5000,
        "count": 4,
        "guards": 0,
        "start_from": "copy",
    }
    with opened(chromium, address) as page:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}lora-graft/v1/jobs/distill", json.dumps(settings).encode(), headers)
        number = json.load(urllib.request.urlopen(request, timeout=60))["id"]
        page.locator("#lora_graft_jobs progress").wait_for()
    with opened(chromium, address) as page, opened(chromium, address) as other:
        for one in (page, other):
            one.locator("#lora_graft_jobs [role=listitem]", has_text=f"{number}: Distil").wait_for()
            assert one.locator("#lora_graft_jobs progress").count() == 1
        page.locator("button#lora_graft_stop").click()
        for one in (page, other):
            brought(one, number, "stopped")


@pytest.mark.parametrize("width", [400, 800])
def test_narrow_windows_need_no_scrolling_to_the_side(chromium, address, width):
    with opened(chromium, address) as page:
        page.set_viewport_size({"width": width, "height": 800})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        for name in ("lora_graft_transfer_start", "lora_graft_stop"):
            box = page.locator(f"button#{name}").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
