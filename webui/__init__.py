"""The page: a tab of Automatic1111, Forge and Forge Neo, and alone as ``lora-graft ui``.

It works on files and needs no host's models. What a host brings (gradio, fastapi) is imported where it is used; typer,
rich and the second pydantic, which not every host has, are never imported here.
"""
