"""A Gateway Load Balancer to test against, in network namespaces of one machine."""
