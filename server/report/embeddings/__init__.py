"""What the page shows of embeddings: recall, relations and groups."""
