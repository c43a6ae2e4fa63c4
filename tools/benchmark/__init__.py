"""Benchmark of training and restoring; `python tools/benchmark` runs it.

What is compared runs in turn, round after round, so that other load on the machine affects all
candidates alike. Figures are medians over rounds, with the lowest and highest; ratios are taken
within a round. CPU seconds are reported beside wall-clock seconds, since they say more on a shared
machine.
"""
