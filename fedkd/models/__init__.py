"""Neural networks: students, teachers, generators, and how a teacher answers."""
