"""Distillation: prompts, samples, learning, the report."""
