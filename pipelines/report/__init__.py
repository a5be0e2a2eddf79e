"""What is said of a run: one page with pictures, and their figures."""
