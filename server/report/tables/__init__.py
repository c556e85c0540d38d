"""The page's sections on tables: invented rows, curves of columns, predictions."""
