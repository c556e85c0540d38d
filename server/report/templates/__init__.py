"""What the page is made of: its Jinja templates, its style sheet."""
