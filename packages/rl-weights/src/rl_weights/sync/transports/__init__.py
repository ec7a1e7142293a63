"""The ways by which buckets get to sinks."""
