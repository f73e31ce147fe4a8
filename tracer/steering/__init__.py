"""Steering: requests whose routing is changed by an intervention while the model runs."""
