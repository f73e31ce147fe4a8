"""Evaluations: interventions as controls of others, and what the outcomes of items say, with intervals."""
