"""Train the two bundled rewards of the shapes world: the judge and CLIP come from here. It trains no others."""
