"""`report.html`: an evaluation as one self-contained HTML page."""
