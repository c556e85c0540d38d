"""What the page shows of several tasks: scores of each, of student, ensemble and teachers."""
