"""Frozen features of pretrained networks, and anomaly maps: what all good-only methods share."""
