"""``lora-graft demo`` runs the main job on the models that come along."""

import pytest

demo = pytest.importorskip("lora_graft.examples.family.demo", reason="the example family is not built")


def test_demo_leaves_pictures_and_files(cli, tmp_path):
    result = cli("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    names = {p.suffix for p in (tmp_path / "demo").rglob("*") if p.is_file()}
    assert {".png", ".safetensors"} <= names
    assert "Wrote" in result.stdout
