"""What a user calls from Python: fit a student, serve a teacher, load a student.

The public names of ``fedkd`` lead here; each imports what it needs when it is called.
"""
