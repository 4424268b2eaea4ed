"""Low-rank layers and their algebra, compared with dense layers and dense products."""
