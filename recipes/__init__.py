"""Runnable post-training recipes over the four libraries. Nothing imports this package."""
