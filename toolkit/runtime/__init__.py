"""Prediction without torch: the steps around a network, and the engines that run it.

`toolkit export` joins these files to the one program `predict.py`.
"""
