"""Choosing experts: a strategy a module, each with one function that selects experts from a run of a store."""

from moetrace.analytics.selection.gap import gap
from moetrace.analytics.selection.random import random
from moetrace.analytics.selection.rise import rise
from moetrace.analytics.selection.sql import sql
from moetrace.analytics.selection.task import task
from moetrace.analytics.selection.top_k import top_k
from moetrace.analytics.selection.top_p import top_p

__all__ = ["gap", "random", "rise", "sql", "task", "top_k", "top_p"]
