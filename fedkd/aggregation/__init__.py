"""Aggregation: the replies of T institutions become one distillation target."""
