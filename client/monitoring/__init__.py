"""What the owner can watch: text for the terminal, and metrics for Prometheus.

Import from the modules: `prometheus` needs an optional package.
"""
