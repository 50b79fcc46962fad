"""A shelf described once, in a recipe: what goes where by which method, what is merged.

document: YAML with the line of every value; recipe: what the values mean, checked whole; run: the work, by any engine,
with a manifest; estimate: what it will take, from its first items.
"""
