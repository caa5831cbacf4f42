"""Packet rates and CPU per packet of the appliance, as ratios to plain kernel forwarding.

One core plays the GWLB and checks every packet that returns; the other does all the work of the
appliance, its network card's polling included. Absolute numbers belong to the machine; compare
lines of one run.
"""
