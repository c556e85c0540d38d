"""The coordinator's side: it asks. It opens no data and knows no institution's code."""
