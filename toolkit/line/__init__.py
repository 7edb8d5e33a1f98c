"""A model at a line: answers image by image, a ledger, outputs to machines, feedback."""
