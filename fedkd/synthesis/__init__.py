"""Sample synthesis: the sources that propose samples, and how a generator is trained."""
