"""The bilevel search, derivation of genotypes, and baselines."""
