"""Deviation networks (Pang et al.): few labelled defects beside all good images."""
