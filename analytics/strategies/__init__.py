"""Strategies: one module each, with one function that selects experts from a run of a store."""

from analytics.strategies.gap import gap
from analytics.strategies.random import random
from analytics.strategies.rise import rise
from analytics.strategies.sql import sql
from analytics.strategies.task import task
from analytics.strategies.top_k import top_k
from analytics.strategies.top_p import top_p

__all__ = ["gap", "random", "rise", "sql", "task", "top_k", "top_p"]
