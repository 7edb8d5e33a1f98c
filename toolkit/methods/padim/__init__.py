"""PaDiM (Defard et al., ICPR 2020): a Gaussian of good features at every place."""
