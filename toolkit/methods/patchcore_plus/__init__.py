"""PatchCore with a second bank: patches of the few labelled defects."""
