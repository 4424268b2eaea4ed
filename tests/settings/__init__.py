"""Tests of declared settings and of the tables of named entries."""
