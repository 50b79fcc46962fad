"""ComfyUI's graph editor in a real Chromium, driven as a user would."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TITLE = 30  # height of a node's title bar, which lies above its position

NODES = """() => app.graph.nodes.map(n => ({
  id: Number(n.id), type: n.type, title: n.title,
  box: [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30],
  known: !!LiteGraph.registered_node_types[n.type], errors: !!n.has_errors,
  smallest: [...n.computeSize()],
  pictures: (n.imgs ?? []).length,
  widgets: (n.widgets ?? []).map(w => ({
    name: w.name, value: w.value, advanced: !!w.options?.advanced,
    choices: w.type === 'combo' && Array.isArray(w.options?.values) ? w.options.values : null,
    min: w.options?.min ?? null, max: w.options?.max ?? null})),
}))"""
GROUPS = "() => app.graph.groups.map(g => ({title: g.title, box: [g.pos[0], g.pos[1], g.size[0], g.size[1]]}))"
RECTANGLES = """() => Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map(element => {
  const {x, y, width, height} = element.getBoundingClientRect(), zoom = app.canvas.ds.scale;
  return [element.dataset.nodeId, [x / zoom, y / zoom, width / zoom, height / zoom]];
}))"""
QUIET = 600_000  # milliseconds without any news from the server after which a run counts as lost
WATCH = """quiet => { window.ended = new Promise(done => {
  let news = Date.now();
  const pulse = setInterval(() => { if (Date.now() - news > quiet) end({type: 'nothing'}); }, 500);
  const end = message => { clearInterval(pulse); done(message); };
  for (const type of ['execution_start', 'executing', 'progress', 'progress_state'])
    app.api.addEventListener(type, () => { news = Date.now(); });
  for (const type of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(type, e => end({type, ...e.detail}), {once: true});
}); }"""
SHOWN = """() => app.graph.nodes.every(n => !(app.nodeOutputs[n.id]?.images?.length) || n.imgs?.length
  || document.querySelector(`[data-node-id="${n.id}"] img`))"""


def find_chromium() -> str | None:
    """CHROMIUM, else the first usual name on the PATH."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


class Editor:
    """One page with the editor in it, after :meth:`open`.

    Args:
        chromium: a playwright browser.
        url: the server's address.
        width, height: of the page.
    """

    def __init__(self, chromium, url: str, width: int, height: int):
        self.chromium, self.url, self.size = chromium, url, {"width": width, "height": height}
        self.page = None
        self.console: list[tuple[str, str]] = []  # (kind, text) of the console and of uncaught errors

    def open(self, *, newcomer: bool = False) -> None:
        """Load the page in a browser that remembers nothing of earlier graphs.

        A newcomer is greeted by the template browser; otherwise the canvas is free.
        """
        if self.page:
            self.page.context.close()
        self.page = self.chromium.new_context(viewport=self.size, reduced_motion="reduce").new_page()
        self.page.on("console", lambda m: self.console.append((m.type, f"{m.text} {m.location.get('url', '')}")))
        self.page.on("pageerror", lambda error: self.console.append(("error", str(error))))
        for setting, value in (("Comfy.TutorialCompleted", not newcomer), ("Comfy.Minimap.Visible", newcomer)):
            self.page.request.post(f"{self.url}/settings/{setting}", data=str(value).lower())
        self.page.goto(self.url)
        ready = "window.app?.vueAppReady && app.canvas && app.extensionManager"
        if not newcomer:
            ready += " && app.graph.nodes.length > 0"  # the graph that is there at the start has come
        self.page.wait_for_function(ready, timeout=60_000)

    def complaints(self) -> list[str]:
        """Errors in the console, but for files that a fresh user does not have and news from other servers."""
        fresh = ("404 (Not Found)", "graph accessed before initialization", "https://")
        return [text for kind, text in self.console if kind == "error" and not any(word in text for word in fresh)]

    def load(self, graph: dict) -> None:
        """Open a workflow in graph form, as dropping its file on the canvas does."""
        self.page.evaluate("g => app.loadGraphData(g)", graph)
        self.settle()

    def load_api(self, graph: dict) -> None:
        """Open a workflow in API form."""
        self.page.evaluate("g => app.loadApiJson(g, 'workflow')", graph)
        self.settle()

    def settle(self) -> None:
        """Two frames, after which sizes are final."""
        self.page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def nodes(self) -> list[dict]:
        """id, type, title, box (x, y, width, height with the title bar), widgets, … of each node."""
        return self.page.evaluate(NODES)

    def nodes_2(self, on: bool) -> None:
        """Switch to the editor's newer mode, where nodes are parts of the page, or back."""
        self.page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", on)
        self.settle()

    def rectangles(self) -> dict[str, list[float]]:
        """In the newer mode: a node's id → x, y, width, height as shown, title bar included, at zoom 1."""
        self.fit()
        return self.page.evaluate(RECTANGLES)

    def groups(self) -> list[dict]:
        return self.page.evaluate(GROUPS)

    def export(self) -> dict:
        """The graph in API form, as the editor sends it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def run(self, *, button: bool = False) -> dict:
        """Queue the graph, wait for its end and for the pictures; the last message of the server.

        As long as the server tells of progress, a busy machine may take its time; a run that is lost is interrupted,
        so that its end is not taken for the next one's.
        """
        self.fit()  # nodes load their pictures when they are in view
        self.page.evaluate(WATCH, QUIET)
        if button:
            self.page.get_by_test_id("queue-button").click()
        else:
            self.page.evaluate("() => app.queuePrompt(0)")
        end = self.page.evaluate("() => window.ended")
        if end["type"] == "execution_success":
            self.page.wait_for_function(SHOWN, timeout=60_000)
        elif end["type"] == "nothing":
            self.page.request.post(f"{self.url}/interrupt")
        self.settle()
        return end

    def fit(self) -> None:
        """Bring the whole graph into view; a selection would be all that is shown."""
        self.page.evaluate("() => app.canvas.deselectAll()")
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        time.sleep(0.7)  # the view glides there

    def picture(self, node: str | int) -> list[bytes]:
        """The files a node shows, as the editor loads them."""
        addresses = self.page.evaluate("id => app.graph.getNodeById(id).imgs.map(i => i.src)", node)
        return [self.page.request.get(address).body() for address in addresses]


@contextlib.contextmanager
def browser(url: str, *, width: int = 1600, height: int = 900) -> Iterator[Editor]:
    """An editor in a browser of its own, as a new user finds it.

    Raises:
        FileNotFoundError: no Chromium.
    """
    from playwright.sync_api import sync_playwright

    program = find_chromium()
    if program is None:
        raise FileNotFoundError("no Chromium on the PATH; set CHROMIUM")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield Editor(chromium, url, width, height)
        finally:
            chromium.close()


def overlaps(boxes: list[tuple[str, list[float]]]) -> list[str]:
    """Pairs of named boxes (x, y, width, height) that share an area."""
    found = []
    for i, (one, (x, y, w, h)) in enumerate(boxes):
        for other, (x2, y2, w2, h2) in boxes[i + 1 :]:
            if x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h:
                found.append(f"{one} and {other}")
    return found
