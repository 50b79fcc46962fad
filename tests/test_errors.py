"""Errors carry fields, so that who passes one on need not read its words."""

from lora_graft.errors import AdapterError, SettingsError, WrongBaseError


def test_an_error_learns_where_it_happened():
    error = SettingsError("rank must be at least 1", hint="Choose another.")
    placed = error.at(key="a.weight")
    assert type(placed) is SettingsError and (placed.key, placed.hint) == ("a.weight", "Choose another.")
    assert str(placed) == "rank must be at least 1 (key a.weight)\nChoose another."
    assert str(placed.at(file="x.safetensors")) == "rank must be at least 1 (file x.safetensors, key a.weight)\n" + (
        placed.hint or ""
    )
    assert AdapterError("no").at(hint="Give the base.").hint == "Give the base."


def test_what_an_adapter_looks_like_outlives_other_advice():
    error = WrongBaseError("nothing of it belongs", looks_like="Flux", advice="Give another source.", file="a")
    placed = error.at(key="b")
    assert placed.looks_like == "Flux" and placed.file == "a" and placed.key == "b"
    assert placed.hint == "The adapter looks like one for Flux. Give another source."
    assert error.at(hint="Leave it out.").hint == "The adapter looks like one for Flux. Leave it out."
    assert error.at(hint="").hint == "The adapter looks like one for Flux."
