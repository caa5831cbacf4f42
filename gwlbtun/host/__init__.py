"""Every touch of the operating system: sockets, TUN devices, netlink, sysctl."""
