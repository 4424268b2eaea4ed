"""The real federation, over Flower: certificates and keys, and the proxy between clients and Flower's server."""
