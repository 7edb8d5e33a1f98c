"""Frozen features of pretrained networks, and score maps: what all good-only methods share."""
