// Builds the shared precompiled header once.
