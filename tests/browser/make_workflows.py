"""Make the graph form and the thumbnail of workflows from their API form and layout, in the real editor.

    python tests/browser/make_workflows.py [NAME …]

Writes workflows/NAME.json and NAME.jpg, and docs/editor.png. Needs ComfyUI and Chromium.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
from editor import TITLE, Editor, browser
from family_host import running
from layouts import LAYOUTS, SHOWN_AT, Layout, Note
from PIL import Image

FOLDER = Path(__file__).parents[2] / "workflows"
GAP, MARGIN, HEAD = 40, 20, 40  # between nodes; around a group; a group's title
CHARACTERS = 5.6  # width of one of a note's letters
PLACE = """([values, places, notes, groups]) => {
  for (const [id, [x, y, w, h]] of Object.entries(places)) {
    const node = app.graph.getNodeById(Number(id)); node.pos = [x, y]; node.setSize([w, h]);
    for (const widget of node.widgets ?? []) {  // the editor may remember values of an earlier graph
      if (widget.name === 'control_after_generate') widget.value = 'fixed';
      else if (widget.name in values[id]) widget.value = values[id][widget.name];
    }
  }
  for (const [text, [x, y, w, h]] of notes) {
    const node = LiteGraph.createNode('MarkdownNote'); app.graph.add(node);
    node.title = 'Note'; node.widgets[0].value = text; node.pos = [x, y]; node.setSize([w, h]);
    node.color = '#432'; node.bgcolor = '#653';
  }
  for (const [title, [x, y, w, h]] of groups) {
    const group = new LiteGraph.LGraphGroup(title); app.graph.add(group); group.pos = [x, y]; group.size = [w, h];
  }
}"""


def numbered(api: dict, layout: Layout) -> dict[str, int]:
    """id in the API form → number in the graph form, in reading order.

    Raises:
        ValueError: a node without a place, a place without a node, or two nodes of one title.
    """
    rows = [row for column in layout.columns for rows in column.values() for row in rows if isinstance(row, str)]
    order = " ".join(rows).split()
    if sorted(order) != sorted(api):
        raise ValueError(f"layout and API form differ in {set(order) ^ set(api) or 'a node named twice'}")
    titles = [node["_meta"]["title"] for node in api.values()]
    if len(set(titles)) < len(titles):
        raise ValueError("two nodes have the same title")
    return {name: number for number, name in enumerate(order, 1)}


def renumbered(api: dict, numbers: dict[str, int]) -> dict:
    """The API form with numbers for ids."""

    def link(value):
        return [str(numbers[value[0]]), value[1]] if isinstance(value, list) else value

    return {
        str(numbers[name]): {**api[name], "inputs": {key: link(value) for key, value in api[name]["inputs"].items()}}
        for name in numbers
    }


def arrange(layout: Layout, size: dict[str, tuple[float, float]]):
    """Positions: (id → x, y, width, height), [(note's text, box)], [(group's title, box)].

    Rows of one length in a column of groups share their columns.
    """
    places, notes, groups, x = {}, [], [], 0
    for column in layout.columns:
        rows = [row for rows in column.values() for row in rows]
        grids = [row.split() for row in rows if isinstance(row, str)]
        widths = {
            len(grid): [max(size[g[i]][0] for g in grids if len(g) == len(grid)) for i in range(len(grid))]
            for grid in grids
        }
        totals = [sum(w) + GAP * (n - 1) for n, w in widths.items()] + [n.width for n in rows if isinstance(n, Note)]
        wide, y = max(totals), 0
        for title, rows in column.items():
            top, y = y, y + HEAD
            for row in rows:
                left, y = x + MARGIN, y + TITLE
                if isinstance(row, Note):
                    low = note_height(row)
                    notes.append((row.text, (left, y, row.width, low)))
                else:
                    names = row.split()
                    low = max(size[name][1] for name in names)
                    for name, width in zip(names, widths[len(names)], strict=True):
                        places[name] = (left, y, width, size[name][1])
                        left += width + GAP
                y += low + GAP // 2
            y += MARGIN - GAP // 2
            groups.append((title, (x, top, wide + 2 * MARGIN, y - top)))
            y += GAP
        x += wide + 2 * MARGIN + GAP
    return places, notes, groups


def note_height(note: Note) -> int:
    letters = (note.width - 40) / CHARACTERS
    lines = sum(1 + int(len(line) / letters) + (0.8 if line.startswith("#") else 0) for line in note.text.split("\n"))
    return 10 * round((50 + 17 * lines) / 10)


def tidy(graph: dict, name: str) -> dict:
    """Without what differs from one machine or run to the next."""
    graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"lora-graft/{name}"))
    graph["last_node_id"] = max(node["id"] for node in graph["nodes"])
    graph["extra"] = {}  # without a view of its own the editor shows the whole graph
    for node in graph["nodes"]:
        if node["type"].startswith("LoraGraft_"):
            node["properties"]["cnr_id"] = "lora-graft"
        for slot in (*node.get("inputs", []), *node.get("outputs", [])):
            for key in [key for key, value in slot.items() if value is None and key != "link"]:
                del slot[key]
        for key in [key for key, value in node.items() if value is None]:
            del node[key]
    renumber_links(graph)
    graph["nodes"].sort(key=lambda node: node["id"])
    return {key: value for key, value in graph.items() if value is not None}


def renumber_links(graph: dict) -> None:
    """Count links from 1, whatever the editor had open before."""
    numbers = {link[0]: number for number, link in enumerate(graph["links"], 1)}
    for link in graph["links"]:
        link[0] = numbers[link[0]]
    for node in graph["nodes"]:
        for slot in node.get("inputs", []):
            slot["link"] = numbers.get(slot["link"])
        for slot in node.get("outputs", []):
            if slot.get("links"):
                slot["links"] = [numbers[link] for link in slot["links"]]
    graph["last_link_id"] = len(numbers)


def contact(rows: list[list[bytes]]) -> Image.Image:
    """Rows of pictures as one."""
    lines = [[Image.open(io.BytesIO(data)).convert("RGB") for data in row] for row in rows]
    strips = [np.concatenate([np.asarray(image) for image in line], 1) for line in lines]
    return Image.fromarray(np.concatenate(strips))


def measured(editor: Editor, name: str, layout: Layout, wanted: dict, numbers: dict[str, int]):
    """Run the graph, which makes nodes that show pictures grow: (id → size in either mode of the editor, pictures)."""
    editor.open()
    editor.nodes_2(True)
    editor.load_api(wanted)
    shown = editor.rectangles()
    editor.nodes_2(False)
    editor.open()
    editor.load_api(wanted)
    end = editor.run()
    if end["type"] != "execution_success":
        raise RuntimeError(f"{name}: {end['type']}: {end.get('exception_message')}")
    nodes, size = {node["id"]: node for node in editor.nodes()}, {}
    for key, number in numbers.items():
        node = nodes[number]
        least = layout.sizes.get(key) or SHOWN_AT.get(node["type"], (270, 0))
        width = max(least[0], node["smallest"][0], 8 * len(node["title"]) + 50)
        height = max(least[1], node["smallest"][1], shown[str(number)][3] - TITLE)
        size[key] = (10 * math.ceil(width / 10), 10 * math.ceil(height / 10))
    return size, [editor.picture(numbers[key]) for key in layout.thumbnail.split()]


def build(editor: Editor, name: str) -> None:
    layout, api = LAYOUTS[name], json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    numbers = numbered(api, layout)
    wanted = renumbered(api, numbers)
    size, pictures = measured(editor, name, layout, wanted, numbers)
    editor.open()
    editor.load_api(wanted)
    places, notes, groups = arrange(layout, size)
    values = {number: node["inputs"] for number, node in wanted.items()}
    editor.page.evaluate(PLACE, [values, {numbers[key]: place for key, place in places.items()}, notes, groups])
    editor.settle()
    graph = tidy(editor.page.evaluate("() => app.graph.serialize()"), name)
    (FOLDER / f"{name}.json").write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    image = contact(pictures)
    zoom = 480 / max(image.size)
    image = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.Resampling.LANCZOS)
    image.save(FOLDER / f"{name}.jpg", quality=82)
    print(f"{name}: {len(graph['nodes'])} nodes, {(FOLDER / f'{name}.jpg').stat().st_size // 1024} KB thumbnail")


def portrait(editor: Editor, name: str = "transfer_before_sampling") -> None:
    """docs/editor.png: a workflow in the editor after its run."""
    editor.open()
    editor.page.evaluate("() => app.extensionManager.setting.set('LiteGraph.Canvas.MinFontSizeForLOD', 0)")
    editor.load(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    editor.run()
    editor.page.wait_for_timeout(6000)  # messages in the corner have gone
    image = Image.open(io.BytesIO(editor.page.screenshot())).convert("RGB")
    image.quantize(256, Image.Quantize.FASTOCTREE).save(FOLDER.parent / "docs" / "editor.png", optimize=True)


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as base, running(Path(base)) as host:
        url = f"http://127.0.0.1:{host.port}"
        with browser(url) as editor:
            for name in names or LAYOUTS:
                build(editor, name)
        with browser(url, width=1900, height=860) as editor:
            portrait(editor)


if __name__ == "__main__":
    main(sys.argv[1:])
