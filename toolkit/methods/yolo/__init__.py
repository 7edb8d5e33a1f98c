"""Detectors trained by Ultralytics: YOLO, and YOLO-World with its prompts kept as data."""
