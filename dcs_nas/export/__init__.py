"""Export trained networks as files that run without this package, and run them."""
