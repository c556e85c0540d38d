"""Deployment rehearsals: real processes, TLS and Flower's commands on one machine."""
