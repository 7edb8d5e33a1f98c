"""From one folder of inspection images with masks to one honest leaderboard."""

__version__ = "0.1.0"
