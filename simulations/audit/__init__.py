"""Attacks on what this project releases. An audit proves violations, and never a guarantee."""
