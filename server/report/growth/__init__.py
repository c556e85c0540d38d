"""The page's part on a student that goes on from an earlier run."""
