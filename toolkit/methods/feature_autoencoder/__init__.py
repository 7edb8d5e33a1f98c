"""A fast student: what a small network cannot rebuild of good features is a defect."""
