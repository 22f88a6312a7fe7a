"""Evaluation as a measurement.

``rollout.evaluate`` runs arms on seeded episodes, ``rows`` keeps them, ``sweep.sweep`` chooses strengths honestly,
``summary.summarise`` rebuilds every table from the rows, ``statistics`` has the intervals.
"""
