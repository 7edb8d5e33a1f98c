"""Report: one HTML page with the leaderboard, plots and every test image."""
