"""The mathematics of distillation: what a student trains, and how its layers answer while it does."""
