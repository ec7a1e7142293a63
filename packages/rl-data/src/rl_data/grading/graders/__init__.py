"""Graders, one file each."""
