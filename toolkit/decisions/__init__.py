"""Decisions with a stated risk: calibrated thresholds, outcomes, costs, drift."""
