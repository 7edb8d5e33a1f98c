"""A benchmark is a list of tasks; each task is one run directory."""
