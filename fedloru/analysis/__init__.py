"""Measurements that test the theory of FedLoRU: curvature, gradient agreement, and ranks along a run."""
