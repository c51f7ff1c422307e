"""Models that look at a picture: into words, into depth, into skeletons."""
