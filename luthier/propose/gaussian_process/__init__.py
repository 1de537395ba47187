"""The numerical parts of :class:`luthier.propose.GaussianProcess`: arrays in, arrays out, no jobs and no histories."""
