"""Training the student: curriculum, optimiser steps, and networks trained beside it."""
