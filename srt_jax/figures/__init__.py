"""Figures and tables of finished or running runs, and of files that the jobs write."""
