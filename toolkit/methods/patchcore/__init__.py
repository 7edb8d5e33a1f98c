"""PatchCore (Roth et al., CVPR 2022): distance to the nearest patches of good images."""
