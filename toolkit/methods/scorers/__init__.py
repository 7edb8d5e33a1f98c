"""Scorers on frozen features: PatchCore, PaDiM, feature autoencoder, DevNet."""
