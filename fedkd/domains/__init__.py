"""Domains: images and tables. What a sample is decides which priors and which student fit it."""

from fedkd.domains.domain_of_cards import domain_of
from fedkd.domains.images import Images
from fedkd.domains.tables import Table

__all__ = ["Images", "Table", "domain_of"]
