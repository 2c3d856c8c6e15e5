"""What nodes say to each other: identity, events, feeds, frames, clocks, topics and limits.

Pure.
"""
