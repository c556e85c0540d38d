"""Reliability of institutions, estimated from their answers; who is wrong is not fused.

Of classes and of numbers, and aggregations that estimate it again while a run asks.
"""
