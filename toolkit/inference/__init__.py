"""Prediction with finished runs: sources of images, the loaded model, results, plots, export."""
