"""Checksums of what the toolkit writes, and `toolkit verify`, which checks them."""
