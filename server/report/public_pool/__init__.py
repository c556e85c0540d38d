"""The page's part on public samples: which of them were chosen."""
