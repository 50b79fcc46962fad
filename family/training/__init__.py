"""How the example family was trained: :mod:`train` repeats it from scikit-learn's digits."""
