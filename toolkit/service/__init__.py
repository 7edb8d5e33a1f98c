"""A model behind HTTP: predictions, a page for people, metrics, and a swap without a stop."""
