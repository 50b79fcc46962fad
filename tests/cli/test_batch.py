"""What a workflow file and ``--set`` mean, the manifest, and the command's own messages."""

import json
import sys
from pathlib import Path

import pytest
from lora_graft.batch import workflow as workflows
from lora_graft.batch.catalogue import Catalogue, Spec
from lora_graft.batch.jobs import assignments, combine
from lora_graft.batch.manifest import NAME, Manifest
from lora_graft.batch.values import expand
from lora_graft.errors import GraftError, SettingsError

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("httpx")

from fake_comfy import GRAPH, INFO
from lora_graft.batch.server import address, failure, refusal

CATALOGUE, WORKFLOW = Catalogue([INFO]), workflows.Workflow(GRAPH)
NAMES = ("a.safetensors", "b[1].safetensors", "sub/c.safetensors", "sub\\d.safetensors", "sub/deep/e.safetensors")
FILES = Spec("COMBO", NAMES)


def place(text):
    found = WORKFLOW.node_input(text, CATALOGUE)
    return found.node, found.input


def values(text, spec=FILES):
    return expand(text, spec, "N.x")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.lora_name", ("1", "lora_name")),
        ("Load LoRA.lora", ("1", "lora_name")),
        ("load lora.LoRA name", ("1", "lora_name")),
        ("Draw v1.5.seed", ("2", "seed")),
        ("KSampler.sampler", ("2", "sampler_name")),
        ("Sampler.extra.rank", ("2", "extra.rank")),
        ("Bad.text", ("4", "text")),
    ],
)
def test_nodes_and_inputs_go_by_the_names_people_use(text, found):
    assert place(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Load LoRe.lora", "Did you mean Load LoRA"),
        ("Load LoRA.strenth", "There is: lora_name"),
        ("2.sede", "Did you mean seed"),
        ("Text.text", "several nodes.*\n.*3 \\(Good\\), 4 \\(Bad\\)"),
        ("Load LoRA.model", "is a socket \\(MODEL\\)"),
        ("Save.images", "is a socket"),
        ("seed", "write NODE.INPUT"),
    ],
)
def test_unknown_nodes_and_inputs_list_what_is_near(text, message):
    with pytest.raises(SettingsError, match=message):
        place(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.safetensors", [0]),
        ("a", [0]),
        ("loras/a.safetensors", [0]),
        ("sub/c", [2]),
        ("b[1].safetensors", [1]),
        ("*", [0, 1]),
        ("*.safetensors", [0, 1]),
        ("loras/*.safetensors", [0, 1]),
        ("/srv/ComfyUI/models/loras/*", [0, 1]),
        ("C:\\ComfyUI\\models\\loras\\sub\\*", [2, 3]),
        ("loras/**/*", [0, 1, 2, 3, 4]),
        ("sub/**/e*", [4]),
        ("sub/c|a", [2, 0]),
    ],
)
def test_globs_are_taken_over_the_servers_list(text, found):
    assert values(text) == [NAMES[i] for i in found]


def test_local_files_are_found_on_the_server_by_their_names(tmp_path, monkeypatch):
    for name in ("loras/a.safetensors", "loras/sub/c.safetensors", "loras/note.txt", "only/here.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert values("loras/*.safetensors") == [NAMES[0]], "the files here, not all that the server has"
    assert values("loras/**/*.safetensors") == [NAMES[0], NAMES[2]]
    assert values(f"{tmp_path}/loras/sub/*") == [NAMES[2]]
    assert values("loras/sub/c.safetensors") == [NAMES[2]]
    with pytest.raises(SettingsError, match="1 of 1 files here are not on the server"):
        values("only/*")
    with pytest.raises(SettingsError, match="1 of 2 files here are not on the server.*note.txt"):
        values("loras/*")
    (tmp_path / "stray.txt").touch()
    assert values("*") == [NAMES[0], NAMES[1]], "no file here is on the server: its own list is meant"
    two = Spec("COMBO", ("x/a.safetensors", "y/a.safetensors"))
    with pytest.raises(SettingsError, match="may be any of x/a.safetensors, y/a.safetensors"):
        values("loras/a.safetensors", two)
    assert values("loras/a.safetensors", Spec("COMBO", ("x/a.safetensors",))) == ["x/a.safetensors"]


def test_numbers_words_and_lists(tmp_path):
    whole, real = Spec("INT", lowest=0, highest=9), Spec("FLOAT", lowest=-1.0)
    assert values("1|2|9", whole) == [1, 2, 9] and values("-0.5|1e3", real) == [-0.5, 1000.0]
    assert isinstance(values("1", real)[0], float)
    assert values("true|No", Spec("BOOLEAN")) == [True, False]
    assert values("what [is] this*?|a\\|b", Spec("STRING")) == ["what [is] this*?", "a|b"]
    assert values("\\@me", Spec("STRING")) == ["@me"]
    assert values("3", Spec("COMBO", (1, 2, 3))) == [3]
    (tmp_path / "list.txt").write_text("\ufeffa red digit | one\n\n  blue  \n", encoding="utf-8")
    assert values(f"@{tmp_path}/list.txt", Spec("STRING")) == ["a red digit | one", "blue"]
    (tmp_path / "list.txt").write_text("sub/*\na\n")
    assert values(f"@{tmp_path}/list.txt") == [NAMES[2], NAMES[3], NAMES[0]]


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("1.5", Spec("INT"), "not a whole number"),
        ("x", Spec("FLOAT"), "not a number"),
        ("nan", Spec("FLOAT"), "not between"),
        ("10", Spec("INT", lowest=0, highest=9), "not between 0 and 9"),
        ("maybe", Spec("BOOLEAN"), "not true or false"),
        ("nothing*", FILES, "matches no file here and none of the 5 names"),
        ("a.safetensor", FILES, "Did you mean a.safetensors"),
        ("x*", Spec("COMBO"), "lists no files"),
    ],
)
def test_values_that_do_not_fit(text, spec, message):
    with pytest.raises(SettingsError, match=message):
        values(text, spec)


def test_menus_of_both_generations_of_nodes_are_read():
    assert Spec.read([["a", "b"], {}]) == Spec.read(["COMBO", {"options": ["a", "b"]}]) == Spec("COMBO", ("a", "b"))
    dynamic = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "share", "inputs": {}}, {"key": "k", "inputs": {}}]}]
    assert Spec.read(dynamic).options == ("share", "k")
    assert Spec.read(["INT,FLOAT", {"min": 1}]) == Spec("INT,FLOAT", lowest=1)
    assert Spec.read(["MODEL", {}]).socket and not Spec.read(["STRING", {"multiline": True}]).socket


def test_the_menus_of_several_servers_are_put_together():
    infos = [{"L": {"input": {"required": {"x": [[name, "c"], {}]}}}} for name in "ab"]
    assert Catalogue(infos).inputs("L")["x"].options == ("a", "c", "b")


def test_every_combination_once_the_last_changing_fastest():
    sets = ["2.seed=1|2", "Good.text=x|y", "Draw v1.5.seed=2|3"]
    jobs = combine(WORKFLOW, assignments(sets, WORKFLOW, CATALOGUE))
    got = [(j.prompt["2"]["inputs"]["seed"], j.prompt["3"]["inputs"]["text"]) for j in jobs]
    assert got == [(1, "x"), (1, "y"), (2, "x"), (2, "y"), (3, "x"), (3, "y")]
    assert len({j.id for j in jobs}) == len({j.stem for j in jobs}) == 6
    assert GRAPH["2"]["inputs"]["seed"] == 0 and jobs[0].prompt["2"]["_meta"] == {"title": "Draw v1.5"}
    (alone,) = combine(WORKFLOW, [])
    assert alone.prompt == GRAPH
    with pytest.raises(SettingsError, match="too many"):
        many = ["2.seed=" + "|".join(map(str, range(500))), "Good.text=" + "|".join(map(str, range(500)))]
        combine(WORKFLOW, assignments(many, WORKFLOW, CATALOGUE))


def test_identity_is_what_decides_the_result():
    renamed = {name: {**node, "_meta": {"title": "?"}} for name, node in reversed(GRAPH.items())}
    assert workflows.identity(renamed) == workflows.identity(GRAPH)
    assert workflows.identity(WORKFLOW.filled({("2", "seed"): 1})) != workflows.identity(GRAPH)


def test_file_names_survive_any_value():
    (job,) = combine(WORKFLOW, assignments(["Good.text=../a: <b>\\| ü " + "x" * 300], WORKFLOW, CATALOGUE))
    assert len(job.stem) < 120 and not set(job.stem) & set('/\\:*?"<>| ') and not job.stem.startswith(".")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"nodes": [], "links": []}', "graph form.*\n.*Workflow > Export \\(API\\)"),
        ('{"last_node_id": 3}', "not a workflow in API form"),
        ("[]", "not a workflow in API form"),
        ("{}", "not a workflow in API form"),
        ('{"1": {"inputs": {}}}', "no class.*key 1"),
    ],
)
def test_other_files_are_refused_and_say_how_to_export(tmp_path, text, message):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(GraftError, match=message):
        workflows.load(tmp_path / "w.json")


def test_the_body_of_a_request_is_a_workflow_too(tmp_path):
    (tmp_path / "w.json").write_text(json.dumps({"client_id": "x", "prompt": GRAPH}))
    assert workflows.load(tmp_path / "w.json") == WORKFLOW


def test_the_shipped_example_is_in_api_form():
    file = Path(__file__).parents[2] / "workflows" / "api" / "batch.json"
    loaded = workflows.load(file)
    assert {loaded.title(node) for node in loaded.nodes} >= {"Load LoRA", "Target", "Save Image"}


def test_a_manifest_is_read_again_even_when_it_was_cut_off(tmp_path):
    path = tmp_path / "out" / NAME
    with Manifest(path) as manifest:
        manifest.write("batch", jobs=3)
        for job in "abc":
            manifest.write("queued", job=job, prompt_id=f"p{job}", server="s")
        manifest.write("done", job="a", prompt_id="pa")
        manifest.write("failed", job="b", prompt_id="pb", error="ü")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "done", "job": "c", "pro')
    with Manifest(path) as manifest:
        assert manifest.past.done == {"a"} and manifest.past.queued == {"pc": ("s", "c")}
        manifest.write("returned", job="c", prompt_id="pc")
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())
    path.write_bytes(path.read_bytes().rstrip())
    with Manifest(path) as manifest:
        assert not manifest.past.queued
        manifest.write("done", job="c", prompt_id="pc")
    with Manifest(path) as manifest:
        assert manifest.past.done == {"a", "c"}


def test_a_manifest_belongs_to_one_batch_at_a_time(tmp_path):
    with Manifest(tmp_path / NAME), pytest.raises(GraftError, match="another batch is running"):
        Manifest(tmp_path / NAME)
    Manifest(tmp_path / NAME).__exit__()


def test_another_file_of_that_name_is_left_alone(tmp_path):
    for text in ('{"event": "party"}\n', "hello", '{"a": 1}'):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(GraftError, match="not the manifest"):
            Manifest(tmp_path / NAME)
        assert (tmp_path / NAME).read_text() == text


def test_addresses():
    assert address("127.0.0.1:8188/") == address(" http://127.0.0.1:8188") == "http://127.0.0.1:8188"
    assert address("https://host/comfy/") == "https://host/comfy"
    for bad in ("", "ftp://x", "http://", "http://x:99999", "http://x:port"):
        with pytest.raises(SettingsError, match="not an address"):
            address(bad)


def test_reasons_are_the_servers_own():
    assert refusal({"error": {"message": "Prompt has no outputs", "details": ""}, "node_errors": {}}, {}) == (
        "Prompt has no outputs"
    )
    assert failure({"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}}, {}) == (
        "interrupted on the server"
    )
    assert failure({"outputs": {}}, {}) is None


def test_messages_of_the_command(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text('{"nodes": []}')
    (tmp_path / "api.json").write_text(json.dumps(GRAPH))
    for arguments, message in (
        (["none.json"], "no such file"),
        (["graph.json"], "Workflow > Export (API)"),
        (["api.json", "--server", "ftp://x"], "not an address"),
        (["api.json", "--server", "http://127.0.0.1:9"], "Start ComfyUI there"),
    ):
        result = cli("batch", *arguments)
        assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) in ([], ["cache"])
