"""Mathematics: torch in, torch out. No files, no model names, no host."""
