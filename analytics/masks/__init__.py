"""Masks from selections, and the formats that trainers read."""
