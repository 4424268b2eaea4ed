"""The low-rank layers and their algebra, against dense layers and dense products."""
