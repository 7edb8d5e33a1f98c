"""The report: one page with the leaderboard, the curves and every test image, opened from disk."""
