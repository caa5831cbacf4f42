"""A Gateway Load Balancer to test against, in network namespaces of one machine.

cli ─→ instance ─→ topology: namespaces, TUN devices, veths
└─→ simulator: pump ─→ gwlb: flows, targets, rules
└─→ control: status, targets, settings, health checks
demo ─→ traffic: real tools through an instance
"""
