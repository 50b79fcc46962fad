"""``lora-graft demo`` runs the main job on the models that come along."""


def test_demo_leaves_pictures_and_files(cli, tmp_path):
    result = cli("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    suffixes = {p.suffix for p in (tmp_path / "demo").rglob("*") if p.is_file()}
    assert {".png", ".safetensors", ".md"} <= suffixes
    assert "Wrote" in result.stdout and "frame transferred" in result.stdout
