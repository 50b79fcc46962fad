"""The example family: small, really trained models, how they were trained, and code to draw with them."""
