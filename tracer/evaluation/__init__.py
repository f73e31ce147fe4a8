"""Asking a model the items of a task, plain, steered, or with trained experts in it."""
