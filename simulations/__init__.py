"""A deterministic world for whole clusters: simulated network, disks, clocks and people, one seed.

The real core runs here, unchanged: `Node.step`, the fold, feeds, members, election, placement, sync
and the order of commits. Around it small doubles stand for what the shell does. Everything that
happens follows from the options and the seed, so a failure is replayed by its seed, told as a
story, and shrunk to the few faults that matter.
"""
