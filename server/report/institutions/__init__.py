"""The page's sections on institutions: each one, all of them, who came and went, reliability."""
