"""Films: decoding, preprocessing, the cohort, the cache of decoded films, duplicates."""
